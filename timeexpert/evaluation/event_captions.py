"""Captioned windows as E.T. Bench scores them (``dvc``, ``slc``): are the windows found, and the right words told?

Per video and IoU threshold (0.1, 0.3, 0.5, 0.7), precision is the share of told windows that overlap a true one by
more than the threshold, recall the share of true windows so overlapped (many to many); both are averaged over the
videos, F1 is taken per threshold from these averages, then averaged. Words: each told window is paired with every
true one whose IoU reaches the threshold; one without such a window is compared with a word that is in no caption.
CIDEr-D, BLEU, ROUGE-L and METEOR of each video and threshold are averaged over thresholds, then videos. CIDEr is in
percent of 1 as tables print it: its range is 0 to 1000.

``etbench`` (``compute_metrics.py``, ``dvc``): word figures are averaged over the videos that parsed, and 1e-8 s added
to each union make a rounded IoU of exactly 0.5 or 0.7 a miss.
``strict``: a video that did not parse, or without an answer, scores 0 in every figure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conventions import chosen, rounded, share
from .errors import MISSING, EvaluationError, Missing, require_same_length
from .meteor import VERSION, Meteor
from .meteor import meteor as meteor_of
from .ngram import BLEU_COLUMNS, bleu, bleu_statistics, cider, rouge_l
from .ptb import NAME, tokenize
from .scores import Figures, Scores, answer_counts, item_names
from .tiou import answered_segments, iou_of, named, true_segments

THRESHOLDS = (0.1, 0.3, 0.5, 0.7)
WORDS = ("cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "meteor")
_NO_MATCH = "qzxjkvw"  # the scripts draw a random word; one that is in no caption does the same
CONVENTIONS: Mapping[str, Mapping[str, Any]] = {
    "strict": {"words_over": "all videos", "union_epsilon_s": 0.0, "decimals": None},
    "etbench": {"words_over": "parsed videos", "union_epsilon_s": 1e-8, "decimals": 3},
}

Event = tuple[float, float, str]  # start_s, end_s, caption


def event_captions(
    truth: Sequence[Sequence[Event]],
    predictions: Sequence[Sequence[Event] | Missing | None],
    *,
    items: Sequence[str] | None = None,
    convention: str = "strict",
    meteor: Meteor | None = None,
) -> Scores:
    """Score told events against true ones, video by video. ``meteor`` runs the METEOR program; without it that
    figure is absent.

    Figures in percent: ``f1``, ``f1_T``, ``precision_T``, ``recall_T``, ``cider``, ``bleu_1`` to ``bleu_4``,
    ``rouge_l``, ``meteor``. ``per_item``: ``f1`` (mean over thresholds of the video's own F1, in [0, 1]).
    Raises :class:`EvaluationError` on bad truth and where METEOR stops.
    """
    rules = chosen(CONVENTIONS, convention, "event captions")
    require_same_length(truth, predictions)
    segments, counts = true_segments([[event[:2] for event in events] for events in truth], items)
    for i, events in enumerate(truth):
        if not all(isinstance(event[2], str) for event in events):
            raise EvaluationError(f"{named(i, items)} holds an event without a caption; correct it or leave it out.")
    width = len(THRESHOLDS)
    found = np.zeros((len(truth), 2 * width))
    pairs = _Pairs()
    for i, (events, told) in enumerate(zip(truth, predictions, strict=True)):
        if told is None or told is MISSING or not len(told):
            continue
        begin = int(counts[:i].sum())
        predicted = answered_segments([event[:2] for event in told])
        true = segments[begin : begin + counts[i]]
        iou = iou_of(predicted[:, None], true[None], union="lengths", epsilon_s=rules["union_epsilon_s"])
        for k, t in enumerate(THRESHOLDS):
            over = iou > t
            found[i, k], found[i, width + k] = over.any(axis=1).mean(), over.any(axis=0).mean()
            pairs.add(i * width + k, iou >= t, [event[2] for event in told], [event[2] for event in events])
    words, names = pairs.scores(len(truth) * width, meteor)
    words = words.reshape(len(truth), width, -1).mean(axis=1) if len(truth) else words[:0]
    parsed = np.array([p is not None and p is not MISSING for p in predictions], dtype=bool)
    counted = parsed if rules["words_over"] == "parsed videos" else np.ones(len(truth), dtype=bool)
    statistics = np.column_stack([np.ones(len(truth)), found, counted, words])

    def combine(sums: NDArray[np.float64]) -> Figures:
        shares = share(sums[..., 1 : 1 + 2 * width], sums[..., 0])
        precision, recall = shares[..., :width], shares[..., width:]
        f1 = _harmonic(precision, recall)
        figures = {"f1": f1.mean(axis=-1)}
        for name, values in (("f1", f1), ("precision", precision), ("recall", recall)):
            figures |= {f"{name}_{t:g}": values[..., k] for k, t in enumerate(THRESHOLDS)}
        told = share(sums[..., 2 + 2 * width :], sums[..., 1 + 2 * width])
        figures |= {name: told[..., k] for k, name in enumerate(names)}
        return {name: rounded(value, rules["decimals"]) for name, value in figures.items()}

    per_item = _harmonic(found[:, :width], found[:, width:]).mean(axis=1) if len(truth) else np.zeros(0)
    return Scores(
        family="event_captions",
        items=item_names(items, len(truth)),
        statistics=statistics,
        combine=combine,
        counts={
            **answer_counts(predictions),
            "predicted_events": sum(len(p) for p in predictions if p is not None and p is not MISSING),
            "true_events": int(counts.sum()),
        },
        per_item={"f1": per_item},
        convention=convention,
        policies={**rules, "thresholds": list(THRESHOLDS)},
        scorers={"tokens": NAME, **({"meteor": VERSION} if meteor is not None else {})},
        notes=() if meteor is not None else ("METEOR is left out: no METEOR was found.",),
    )


class _Pairs:
    """Told captions with the true ones that they are compared with, in groups (one video at one threshold)."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.told: list[str] = []
        self.true: list[str] = []

    def add(self, group: int, meets: NDArray[np.bool_], told: Sequence[str], true: Sequence[str]) -> None:
        for p, text in enumerate(told):
            partners = [true[k] for k in np.flatnonzero(meets[p]).tolist()] or [_NO_MATCH]
            self.groups += [group] * len(partners)
            self.told += [str(text)] * len(partners)
            self.true += partners

    def scores(self, groups: int, meteor: Meteor | None) -> tuple[NDArray[np.float64], Sequence[str]]:
        """Figures [groups, words], 0 for a group without pairs, and their names."""
        texts = {text: _ascii(text) for text in {*self.told, *self.true}}
        tokens = dict(zip(texts, tokenize(list(texts.values())), strict=True))
        told = [tokens[text] for text in self.told]
        true = [[tokens[text]] for text in self.true]
        at = np.array(self.groups, dtype=np.int64)
        size = np.maximum(np.bincount(at, minlength=groups), 1)

        def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.bincount(at, values, groups) / size

        sums = np.zeros((groups, BLEU_COLUMNS))
        np.add.at(sums, at, bleu_statistics(told, true))
        some = np.bincount(at, minlength=groups) > 0
        columns = [mean(cider(told, true, at)), *np.where(some[:, None], bleu(sums), 0.0).T, mean(rouge_l(told, true))]
        if meteor is not None:
            statistics = meteor.statistics(told, true)
            corpus = np.zeros((groups, statistics.shape[1]))
            np.add.at(corpus, at, statistics)
            columns.append(meteor_of(corpus))
        return np.column_stack(columns), WORDS[: len(columns)]


def _ascii(text: str) -> str:
    return re.sub(r"[^\x00-\x7f]", " ", text)


def _harmonic(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    total = precision + recall
    return np.where(
        total > 0, 2 * precision * recall / np.where(total > 0, total, 1.0), np.where(total == 0, 0.0, np.nan)
    )
