"""Dense captioning: are the events found (precision, recall, F1), and do found events have the right words?

Conventions, by the script whose figures they repeat: ``timechat`` and ``vtgllm`` (``metrics/dvc/eval_dvc.py``, the
figures of YouCook2 tables), ``trace`` (the same, but videos without a prediction are left out) and ``anet``
(``eval_dvc_anet.py``, the figures of ActivityNet tables). In all of them an overlap is found when IoU is strictly
greater than the threshold, captions are compared from the threshold on, and matching is many to many. The YouCook2
script averages precision and recall over thresholds before one harmonic mean per video; the ActivityNet script
averages them over videos before one harmonic mean per threshold. ``strict`` counts as the former, takes reversed
times for misses, and keeps every video.
Not copied: nothing is compared with random letters, but with one word that nobody says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from . import meteor as meteor_scores
from . import ngram, ptb, soda
from .caption_events import Prediction, ReversedTimes, Truth, Video, concatenated, counts_of, pairwise_iou, videos_of
from .conventions import chosen, policies, share
from .meteor import Meteor, MeteorError
from .scores import Figures, Scores

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
_NOBODY_SAYS = "xqzvkjwqxzvkjq"
_WITHOUT_METEOR = "METEOR and SODA_c are left out: no METEOR was found. "
_EXACT = "caption_exact_match_0.5"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CaptioningConvention:
    """How videos become figures. ``soda`` names the convention of SODA_c.

    ``averaged``: over thresholds per video, or over videos per threshold. ``paragraphs``: each video's captions
    beside its own truth, or, as the script zips its lists, the n-th video that has a prediction beside the n-th truth.
    """

    averaged: Literal["video", "threshold"] = "video"
    missing: Literal["zero", "skip"] = "zero"
    reversed_times: ReversedTimes = "miss"
    ascii_only: bool = False
    max_events: int | None = None
    paragraphs: Literal["video", "position"] = "video"
    soda: str = "strict"


_TIMECHAT = CaptioningConvention(reversed_times="sort", paragraphs="position", soda="timechat")
CONVENTIONS: Mapping[str, CaptioningConvention] = {
    "strict": CaptioningConvention(),
    "timechat": _TIMECHAT,
    "vtgllm": _TIMECHAT,
    "trace": replace(_TIMECHAT, missing="skip", soda="trace"),
    "anet": CaptioningConvention(averaged="threshold", missing="skip", ascii_only=True, max_events=1000, soda="soda"),
}


def dense_captioning(
    truth: Sequence[Truth],
    predictions: Sequence[Prediction],
    *,
    items: Sequence[str] | None = None,
    convention: str = "strict",
    meteor: Meteor | None = None,
) -> Scores:
    """Score predicted events against true ones, video by video.

    ``truth[i]`` is one list of events, all with times, or several lists (references): precision and recall take
    the best one, captions meet the events of all. ``predictions[i]`` is ``None`` where the answer did not parse and
    ``MISSING`` where there is none: both score 0, or are left out where the convention skips missing videos. A
    predicted event without a time stays in precision's denominator and matches nothing.

    Figures in percent: ``f1``, ``precision``, ``recall`` (averaged over IoU 0.3, 0.5, 0.7, 0.9), ``precision_T``,
    ``recall_T`` and ``f1_T``; ``caption_exact_match_0.5`` (of the true events that some prediction overlaps by more
    than 0.5, the share whose best-overlapping prediction has the same caption, up to case, white space and a final
    full stop); ``cider`` (best 1000, as papers print it), ``bleu_1`` to ``bleu_4``, ``rouge_l``, averaged over
    thresholds and videos; ``paragraph_cider``; with a ``meteor`` also ``meteor``, ``soda_c``, ``paragraph_meteor``.
    Without one, or where it stops, a note says so and how to install it. Raises :class:`EvaluationError` on truth
    that cannot be scored.
    """
    rules = chosen(CONVENTIONS, convention, "dense captioning")
    videos = videos_of(truth, predictions, items, rules.max_events)
    counted = np.array([not (v.missing and rules.missing == "skip") for v in videos], dtype=bool)
    columns: dict[str, Floats] = {"videos": counted.astype(np.float64)}
    columns |= _found(videos, rules)
    pairs = _Pairs.of(videos, rules)
    columns |= pairs.ngram_columns()
    paragraphs = _paragraphs(videos, counted, rules)
    columns |= _paragraph_cider(paragraphs, len(videos))
    notes = [_WITHOUT_METEOR + meteor_scores.INSTALL] if meteor is None else []
    if meteor is not None:
        meteor.announce([*pairs.tokens, *paragraphs.said, *(text for texts in paragraphs.true for text in texts)])
        try:
            said = pairs.meteor_column(meteor) | _paragraph_meteor(paragraphs, len(videos), meteor)
            columns |= said | {"soda_c": soda.soda_of(videos, soda.CONVENTIONS[rules.soda], "c", meteor)[:, 2]}
        except MeteorError as error:
            notes, meteor = [str(error)], None
    own = [name for name in columns if not name.startswith("paragraph")]
    columns |= {name: np.where(counted, columns[name], 0.0) for name in own}
    names = list(columns)
    return Scores(
        family="dense_captioning",
        items=[v.name for v in videos],
        statistics=np.column_stack(list(columns.values())),
        combine=lambda sums: _figures(dict(zip(names, np.moveaxis(sums, -1, 0), strict=True)), rules),
        counts=counts_of(videos) | {"caption_pairs": int(columns["exact_pairs"].sum())},
        per_item={name: columns[name] for name in ("f1", "cider", "soda_c") if name in columns},
        convention=convention,
        policies=policies(rules),
        scorers={"tokenizer": ptb.NAME} | ({"meteor": meteor_scores.VERSION} if meteor is not None else {}),
        notes=notes,
    )


def _figures(sums: Mapping[str, Floats], rules: CaptioningConvention) -> Figures:
    videos = sums["videos"]
    figures: dict[str, Floats] = {}
    for name in ("f1", "precision", "recall", *(n for n in _TEXT_FIGURES if n in sums)):
        figures[name] = share(sums[name], videos)
    for t in THRESHOLDS:
        precision, recall = (share(sums[f"{name}_{t}"], videos) for name in ("precision", "recall"))
        figures |= {f"precision_{t}": precision, f"recall_{t}": recall, f"f1_{t}": _harmonic_mean(precision, recall)}
    if rules.averaged == "threshold":
        figures["f1"] = np.asarray(np.mean([figures[f"f1_{t}"] for t in THRESHOLDS], axis=0))
    figures[_EXACT] = share(sums["exact"], sums["exact_pairs"])
    figures["paragraph_cider"] = share(sums["paragraph_cider"], sums["paragraphs"])
    if "paragraph_meteor_0" in sums:
        statistics = np.stack([sums[f"paragraph_meteor_{k}"] for k in range(meteor_scores.COLUMNS)], axis=-1)
        none = np.where(sums["paragraphs"] > 0, 1.0, np.nan)
        figures["paragraph_meteor"] = 100.0 * none * meteor_scores.meteor(statistics)
    return figures


_TEXT_FIGURES = ("cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "meteor", "soda_c")


def _found(videos: Sequence[Video], rules: CaptioningConvention) -> dict[str, Floats]:
    """Precision and recall per threshold, their means, the videos' F1, and matching captions."""
    precision, recall = np.zeros((len(videos), len(THRESHOLDS))), np.zeros((len(videos), len(THRESHOLDS)))
    exact = np.zeros((len(videos), 2))
    for i, video in enumerate(videos):
        if video.predicted is None or not len(video.predicted):
            continue
        for true in video.references:
            iou_PG = pairwise_iou(video.predicted.segments_s, true.segments_s, rules.reversed_times)
            best_P, best_G = iou_PG.max(axis=1), iou_PG.max(axis=0)
            for k, t in enumerate(THRESHOLDS):
                precision[i, k] = max(precision[i, k], float((best_P > t).mean()))
                recall[i, k] = max(recall[i, k], float((best_G > t).mean()))
            found = np.flatnonzero(best_G > 0.5).tolist()
            said = [video.predicted.captions[p] for p in iou_PG.argmax(axis=0)[found].tolist()]
            same = [_plain(a) == _plain(true.captions[g]) for a, g in zip(said, found, strict=True)]
            exact[i] += sum(same), len(same)
    means = precision.mean(axis=1), recall.mean(axis=1)
    columns = {"f1": _harmonic_mean(*means), "precision": means[0], "recall": means[1]}
    for k, t in enumerate(THRESHOLDS):
        columns |= {f"precision_{t}": precision[:, k], f"recall_{t}": recall[:, k]}
    return columns | {"exact": exact[:, 0], "exact_pairs": exact[:, 1]}


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Captions to compare, as tokens: for each video and threshold every pair of events that overlap enough, and
    every prediction without such a pair beside a word that nobody says. ``group`` is video * thresholds + threshold.
    ``tokens`` are all captions of these videos."""

    tokens: Sequence[str]
    said: Sequence[str]
    true: Sequence[str]
    group: NDArray[np.int64]
    videos: int

    @classmethod
    def of(cls, videos: Sequence[Video], rules: CaptioningConvention) -> _Pairs:
        """All pairs of ``videos``, equal texts once."""
        texts: dict[str, int] = {_NOBODY_SAYS: 0}
        said, true, group = [], [], []
        for i, video in enumerate(videos):
            if video.predicted is None or not len(video.predicted):
                continue
            references = concatenated(video.references)
            told_P = np.array([texts.setdefault(t, len(texts)) for t in video.predicted.captions])
            true_G = np.array([texts.setdefault(t, len(texts)) for t in references.captions])
            iou_PG = pairwise_iou(video.predicted.segments_s, references.segments_s, rules.reversed_times)
            for k, t in enumerate(THRESHOLDS):
                p, g = np.nonzero(iou_PG >= t)
                alone = np.flatnonzero(~(iou_PG >= t).any(axis=1))
                said += [told_P[p], told_P[alone]]
                true += [true_G[g], np.zeros(len(alone), dtype=np.int64)]
                group.append(np.full(len(p) + len(alone), i * len(THRESHOLDS) + k))
        tokens = ptb.tokenize(soda.ascii_text(t) if rules.ascii_only else t for t in texts)
        nothing = [np.zeros(0, dtype=np.int64)]
        left, right = ([tokens[i] for i in np.concatenate(nothing + side)] for side in (said, true))
        return cls(tokens, left, right, np.concatenate(nothing + group), len(videos))

    def ngram_columns(self) -> dict[str, Floats]:
        """CIDEr-D (of 10), BLEU and ROUGE-L of each video, averaged over thresholds."""
        references = [[text] for text in self.true]
        bleu = ngram.bleu(self._sums(ngram.bleu_statistics(self.said, references)))
        columns = {f"bleu_{k + 1}": self._averaged(bleu[:, k]) for k in range(ngram.ORDERS)}
        for name, score in (
            ("cider", ngram.cider(self.said, references, self.group)),
            ("rouge_l", ngram.rouge_l(self.said, references)),
        ):
            columns[name] = self._averaged(self._sums(score[:, None])[:, 0] / np.maximum(self._sizes(), 1))
        return columns

    def meteor_column(self, meteor: Meteor) -> dict[str, Floats]:
        """METEOR of each video, averaged over thresholds; a video's pairs at one threshold are one corpus."""
        statistics = meteor.statistics(self.said, [[text] for text in self.true])
        return {"meteor": self._averaged(meteor_scores.meteor(self._sums(statistics)))}

    def _sums(self, rows: Floats) -> Floats:
        groups = self.videos * len(THRESHOLDS)
        return np.stack([np.bincount(self.group, column, groups) for column in rows.T], axis=1)

    def _sizes(self) -> Floats:
        return np.bincount(self.group, minlength=self.videos * len(THRESHOLDS)).astype(np.float64)

    def _averaged(self, values: Floats) -> Floats:
        held = np.where(self._sizes() > 0, values, 0.0)
        return held.reshape(self.videos, len(THRESHOLDS)).mean(axis=1)


@dataclass(frozen=True, eq=False)
class _Paragraphs:
    """For each counted video the place of its row, its captions in one text, and its references in one text each."""

    place: NDArray[np.int64]
    said: Sequence[str]
    true: Sequence[Sequence[str]]


def _paragraphs(videos: Sequence[Video], counted: NDArray[np.bool_], rules: CaptioningConvention) -> _Paragraphs:
    told = [v for v, use in zip(videos, counted, strict=True) if use]
    beside = told
    if rules.paragraphs == "position":
        told = [v for v in videos if v.predicted is not None]
        beside = list(videos[: len(told)])
    rows = {id(v): i for i, v in enumerate(videos)}
    said = [_letters(v.predicted.captions if v.predicted is not None else ()) for v in told]
    true = [[_letters(events.captions) for events in v.references] for v in beside]
    return _Paragraphs(np.array([rows[id(v)] for v in told], dtype=np.int64), said, true)


def _paragraph_cider(paragraphs: _Paragraphs, videos: int) -> dict[str, Floats]:
    cider = ngram.cider(paragraphs.said, paragraphs.true)
    return {
        "paragraphs": _placed(paragraphs, np.ones(len(cider)), videos),
        "paragraph_cider": _placed(paragraphs, cider, videos),
    }


def _paragraph_meteor(paragraphs: _Paragraphs, videos: int, meteor: Meteor) -> dict[str, Floats]:
    statistics = meteor.statistics(paragraphs.said, paragraphs.true)
    return {f"paragraph_meteor_{k}": _placed(paragraphs, column, videos) for k, column in enumerate(statistics.T)}


def _placed(paragraphs: _Paragraphs, values: Floats, videos: int) -> Floats:
    return np.asarray(np.bincount(paragraphs.place, values, videos), dtype=np.float64)


def _letters(captions: Sequence[str]) -> str:
    """Captions as one text of lower-case ASCII words, as the YouCook2 script has paragraphs."""
    return " ".join(re.sub("[^a-zA-Z]", " ", " ".join(captions)).lower().split())


def _plain(caption: str) -> str:
    return " ".join(caption.casefold().split()).removesuffix(".").rstrip()


def _harmonic_mean(precision: Floats, recall: Floats) -> Floats:
    total = precision + recall
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(total == 0, 0.0, 2 * precision * recall / total), dtype=np.float64)
