"""SODA: does a list of captions tell the story? (Fujita et al., "SODA: Story Oriented Dense Video Captioning
Evaluation Framework", ECCV 2020.)

Predicted and true events are matched one to one without crossing in time, so that the sum of a pair's value is
largest; precision and recall divide that sum by the number of predicted and of true events. The value is

- ``c``: IoU times the score of the captions (the one papers print as SODA_c),
- ``d``: IoU alone,
- ``b``: matched by IoU, valued by the captions,
- ``a``: as b at IoU 0.3, 0.5, 0.7, 0.9 (smaller ones set to 0), averaged; the best reference may differ by level.

Conventions: ``soda`` is the published program, ``timechat`` (``vtgllm``, ``trace``) the function in
``metrics/dvc/eval_dvc.py``, whose caption scores stand in the order of the predictions' numbers as text
(0, 1, 10, 11, 2, ...) beside IoUs in their own order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from . import meteor as meteor_scores
from . import ngram, ptb
from .caption_events import (
    Prediction,
    ReversedTimes,
    TimedCaptions,
    Truth,
    Video,
    concatenated,
    counts_of,
    pairwise_iou,
    videos_of,
)
from .conventions import chosen, policies, share
from .errors import EvaluationError
from .meteor import Meteor
from .scores import Figures, Scores

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
Variant = Literal["a", "b", "c", "d"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SodaConvention:
    """How videos become figures.

    ``roles``: ``swapped`` takes the true caption for the hypothesis, as every published figure does;
    ``right`` takes the prediction. ``references``: ``best`` of several by F, or all ``concatenated``.
    ``unmatched_pairs``: whether a and b value pairs without any overlap. ``assignment``: their pairs are those of the
    largest sum, or the ones the published program reads off its table, which may be worth less.
    """

    missing: Literal["zero", "skip"] = "zero"
    roles: Literal["swapped", "right"] = "swapped"
    references: Literal["best", "concatenated"] = "best"
    sort_predictions: bool = True
    sort_truth: bool = True
    reversed_times: ReversedTimes = "miss"
    ascii_only: bool = False
    unmatched_pairs: Literal["nothing", "captions"] = "nothing"
    assignment: Literal["optimal", "published"] = "optimal"
    columns: Literal["own", "by_text"] = "own"


_TIMECHAT = SodaConvention(sort_predictions=False, sort_truth=False, reversed_times="sort", columns="by_text")
CONVENTIONS: Mapping[str, SodaConvention] = {
    "strict": SodaConvention(),
    "soda": SodaConvention(
        missing="skip", sort_truth=False, ascii_only=True, unmatched_pairs="captions", assignment="published"
    ),
    "timechat": _TIMECHAT,
    "vtgllm": _TIMECHAT,
    "trace": replace(_TIMECHAT, missing="skip"),
}


def soda(
    truth: Sequence[Truth],
    predictions: Sequence[Prediction],
    *,
    variant: Variant = "c",
    scorer: Literal["meteor", "cider"] = "meteor",
    items: Sequence[str] | None = None,
    convention: str = "strict",
    meteor: Meteor | None = None,
    references: Literal["best", "concatenated"] | None = None,
    roles: Literal["swapped", "right"] | None = None,
) -> Scores:
    """SODA of each video, averaged over videos.

    ``truth[i]`` is one list of events or several (references); ``predictions[i]`` is ``None`` where the answer did
    not parse and ``MISSING`` where there is none. ``references`` and ``roles`` replace the convention's.

    Figures ``soda_V``, ``soda_V_precision`` and ``soda_V_recall`` for variant V, in percent (with CIDEr, whose best
    is 10, up to 1000). Raises :class:`EvaluationError` on truth without events and on unknown names, and
    :class:`MeteorError` where METEOR is asked for and not given or stops.
    """
    rules = chosen(CONVENTIONS, convention, "soda")
    if variant not in ("a", "b", "c", "d") or scorer not in ("meteor", "cider"):
        raise EvaluationError(
            f"soda knows the variants a, b, c, d and the scorers meteor, cider, not {variant!r}, {scorer!r}."
        )
    rules = replace(rules, references=references or rules.references, roles=roles or rules.roles)
    needs_meteor = scorer == "meteor" and variant != "d"
    if needs_meteor and meteor is None:
        raise meteor_scores.MeteorError(f"soda_{variant} with METEOR needs a Meteor. {meteor_scores.INSTALL}")
    videos = videos_of(truth, predictions, items, None)
    values = soda_of(videos, rules, variant, meteor if scorer == "meteor" else None)
    counted = np.array([not (v.missing and rules.missing == "skip") for v in videos], dtype=np.float64)
    names = (f"soda_{variant}_precision", f"soda_{variant}_recall", f"soda_{variant}")

    def combine(sums: Floats) -> Figures:
        return dict(zip(names, np.moveaxis(share(sums[..., 1:], sums[..., 0]), -1, 0), strict=True))

    return Scores(
        family="soda",
        items=[v.name for v in videos],
        statistics=np.column_stack([counted, values * counted[:, None]]),
        combine=combine,
        counts=counts_of(videos),
        per_item={"f1": values[:, 2]},
        convention=convention,
        policies=policies(rules) | {"variant": variant, "scorer": scorer},
        scorers={"tokenizer": ptb.NAME} | ({"meteor": meteor_scores.VERSION} if needs_meteor else {}),
    )


@dataclass(frozen=True, eq=False)
class _Match:
    """One reference of one video: IoU [true, predicted], and the places whose captions are to be scored."""

    video: int
    true: TimedCaptions
    predicted: TimedCaptions
    iou: Floats
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


def soda_of(videos: Sequence[Video], rules: SodaConvention, variant: Variant, meteor: Meteor | None) -> Floats:
    """Precision, recall and F of each video, [videos, 3]; without ``meteor`` captions are scored by CIDEr."""
    matches = [match for i, video in enumerate(videos) for match in _matches(i, video, rules, variant)]
    scores = [np.zeros(0)] * len(matches)
    if variant != "d":
        scores = _caption_scores(matches, rules, meteor)
    levels = len(_levels(variant))
    best = np.zeros((len(videos), levels, 3))
    for match, values in zip(matches, scores, strict=True):
        for k, total in enumerate(_totals(match, values, rules, variant)):
            precision, recall = total / len(match.predicted), total / len(match.true)
            f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
            if f1 > best[match.video, k, 2]:
                best[match.video, k] = precision, recall, f1
    return np.asarray(best.mean(axis=1))


def best_sum(values: Floats) -> float:
    """The largest sum of values of a matching one to one whose pairs do not cross, of [true, predicted], all >= 0."""
    rows = values if len(values) <= values.shape[1] else values.T
    best = np.zeros(rows.shape[1] + 1)
    for row in rows:
        best[1:] = np.maximum.accumulate(np.maximum(best[1:], best[:-1] + row))
    return float(best[-1])


def matched_pairs(values: Floats) -> list[tuple[int, int]]:
    """Pairs (true, predicted) of the matching that :func:`best_sum` values, last first; pairs worth 0 are left out."""
    table = np.zeros((len(values) + 1, values.shape[1] + 1))
    for before, after, row in zip(table[:-1], table[1:], values, strict=True):
        after[1:] = np.maximum.accumulate(np.maximum(before[1:], before[:-1] + row))
    i, j = values.shape
    pairs = []
    while i and j:
        if table[i, j] == table[i - 1, j]:
            i -= 1
        elif table[i, j] == table[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs


def published_pairs(values: Floats) -> list[tuple[int, int]]:
    """Pairs (true, predicted) as the published program reads them off its table.

    From the last true event on, each takes the last prediction, before the one taken so far, at which a match was
    worth strictly more than leaving either out; the first true event may take one worth nothing. That is not
    always the best matching.
    """
    before, pays = np.zeros(values.shape[1] + 1), []
    for i, row in enumerate(values):
        matched = before[:-1] + row
        after = np.maximum.accumulate(np.maximum(matched, before[1:]))
        left = np.concatenate([[-1.0], after[:-1]])
        pays.append(matched > np.maximum(left, before[1:] if i else -1.0))
        before = np.concatenate([[0.0], after])
    pairs, end = [], values.shape[1]
    for i in range(len(values) - 1, -1, -1):
        places = np.flatnonzero(pays[i][:end])
        if len(places):
            end = int(places[-1])
            pairs.append((i, end))
        if end == 0:
            break
    return pairs


def _matches(index: int, video: Video, rules: SodaConvention, variant: Variant) -> list[_Match]:
    predicted = video.predicted
    if predicted is None or not len(predicted):
        return []
    predicted = predicted.by_start() if rules.sort_predictions else predicted
    lists = list(video.references)
    if rules.references == "concatenated":
        lists = [concatenated(lists).by_start()]
    elif rules.sort_truth:
        lists = [events.by_start() for events in lists]
    matches = []
    for true in lists:
        iou = pairwise_iou(predicted.segments_s, true.segments_s, rules.reversed_times).T
        if variant in ("a", "b"):
            pairs = {pair for level in _levels(variant) for pair in _assigned(iou, level, rules)}
            rows, columns = (np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)).T
        else:
            rows, columns = np.nonzero(iou > 0)  # other pairs are worth nothing whatever they say
        matches.append(_Match(index, true, predicted, iou, rows, columns))
    return matches


def _caption_scores(matches: Sequence[_Match], rules: SodaConvention, meteor: Meteor | None) -> list[Floats]:
    """For each match the score of the captions at its places, as a dense [true, predicted], 0 elsewhere."""
    texts = {t: None for m in matches for t in (*m.true.captions, *m.predicted.captions)}
    tokens = dict(zip(texts, ptb.tokenize(ascii_text(t) if rules.ascii_only else t for t in texts), strict=True))
    true, told, groups, sizes, places, calls = [], [], [], [], [], 0
    for m in matches:
        columns = m.columns
        if rules.columns == "by_text" and meteor is not None:
            columns = np.array(sorted(range(len(m.predicted)), key=str), dtype=np.int64)[columns]
        rows = m.rows
        if meteor is None:  # CIDEr's document frequencies need every pair
            rows, columns = np.divmod(np.arange(m.iou.size), m.iou.shape[1])
        true += [tokens[m.true.captions[i]] for i in rows]
        told += [tokens[m.predicted.captions[i]] for i in columns]
        # A corpus of CIDEr's is one hypothesis beside every reference.
        groups += [calls + i for i in (rows if rules.roles == "swapped" else columns)]
        calls += max(m.iou.shape)
        sizes.append(len(rows))
        places.append((rows, m.columns if meteor is not None else columns))
    said, heard = (true, told) if rules.roles == "swapped" else (told, true)
    if meteor is None:
        flat = ngram.cider(said, [[text] for text in heard], groups)
    else:
        flat = meteor_scores.meteor(meteor.statistics(said, [[text] for text in heard]))
    scores = []
    ends = np.cumsum(sizes, dtype=np.int64)
    for m, size, end, (rows, columns) in zip(matches, sizes, ends, places, strict=True):
        table = np.zeros(m.iou.shape)
        table[rows, columns] = flat[end - size : end]
        scores.append(table)
    return scores


def _levels(variant: Variant) -> tuple[float, ...]:
    return THRESHOLDS if variant == "a" else (0.0,)


def _totals(match: _Match, scores: Floats, rules: SodaConvention, variant: Variant) -> list[float]:
    """Sum of the values of the matched pairs, at each level."""
    if variant == "d":
        return [best_sum(match.iou)]
    if variant == "c":
        return [best_sum(match.iou * scores)]
    return [float(sum(scores[p] for p in _assigned(match.iou, level, rules))) for level in _levels(variant)]


def _assigned(iou: Floats, level: float, rules: SodaConvention) -> list[tuple[int, int]]:
    """The pairs of a and b, matched by IoU of at least ``level``."""
    iou = np.where(iou >= level, iou, 0.0)
    pairs = published_pairs(iou) if rules.assignment == "published" else matched_pairs(iou)
    return [p for p in pairs if rules.unmatched_pairs == "captions" or iou[p] > 0]


def ascii_text(text: str) -> str:
    """Every character that is not ASCII becomes a blank."""
    return "".join(c if c < "\x80" else " " for c in text)
