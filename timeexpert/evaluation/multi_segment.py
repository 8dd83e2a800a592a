"""Multi-segment F1: queries whose answer is a set of segments (temporal action localisation).

Per query and IoU threshold, precision is the share of predicted segments whose best IoU with a true one reaches
the threshold, recall the share of true segments whose best IoU with a predicted one does (many to many: a segment
told twice counts twice in precision), and F1 their harmonic mean. F1 is averaged over all queries, then over the
thresholds 0.1, 0.3, 0.5, 0.7. Equal to MUSEG (``src/eval_grounding.py``, ``tal``) under ``museg`` and to E.T. Bench
(``compute_metrics.py``, ``tal``) under ``etbench``; both compute IoU in float32, where an IoU of exactly 0.7 is below
0.7. Not copied: E.T. Bench divides by zero where equal segments of zero length are the only ones (0 here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .conventions import chosen, policies, rounded, share
from .errors import MISSING, Missing, require_same_length
from .scores import Figures, Scores, answer_counts, item_names
from .tiou import Segment, Union, answered_segments, iou_of, true_segments

THRESHOLDS = (0.1, 0.3, 0.5, 0.7)
_CELLS_AT_ONCE = 1_000_000  # predicted x true segments


@dataclass(frozen=True)
class MultiSegmentConvention:
    """How IoU is computed; ``decimals`` rounds percent figures."""

    union: Union = "hull"
    precision: Literal["float64", "float32"] = "float64"
    decimals: int | None = None


CONVENTIONS: Mapping[str, MultiSegmentConvention] = {
    "strict": MultiSegmentConvention(),
    "etbench": MultiSegmentConvention("lengths", "float32", 3),
    "museg": MultiSegmentConvention("lengths", "float32"),
}


def multi_segment_f1(
    truth: Sequence[Sequence[Segment]],
    predictions: Sequence[Sequence[Segment] | Missing | None],
    *,
    items: Sequence[str] | None = None,
    convention: str = "strict",
) -> Scores:
    """Score sets of predicted segments; ``None`` (did not parse) and ``MISSING`` (no answer) score 0.

    Figures in percent: ``f1`` (mean over thresholds), ``f1_T``, ``precision_T``, ``recall_T`` (averages over queries).
    ``per_item``: ``f1``, in [0, 1]. Counts beside the usual ones: ``empty``, ``predicted_segments``, ``true_segments``.
    """
    rules = chosen(CONVENTIONS, convention, "multi-segment F1")
    require_same_length(truth, predictions)
    segments, counts = true_segments(truth, items)
    width = len(THRESHOLDS)
    columns = np.zeros((len(truth), 1 + 3 * width))
    columns[:, 0] = 1
    at, told = 0, 0
    for i, predicted in enumerate(predictions):
        of, at = segments[at : at + counts[i]], at + counts[i]
        if predicted is None or predicted is MISSING or not len(predicted):
            continue
        told += len(predicted)
        best_P, best_T = best_overlaps(answered_segments(predicted), of, rules.union, rules.precision == "float32")
        precision = [float(np.mean(best_P >= t)) for t in THRESHOLDS]
        recall = [float(np.mean(best_T >= t)) for t in THRESHOLDS]
        f1 = [2 * p * r / (p + r) if p + r > 0 else 0.0 for p, r in zip(precision, recall, strict=True)]
        columns[i, 1:] = f1 + precision + recall

    def combine(sums: NDArray[np.float64]) -> Figures:
        shares = share(sums[..., 1:], sums[..., 0])
        figures = {"f1": shares[..., :width].mean(axis=-1)}
        for k, name in enumerate(("f1", "precision", "recall")):
            figures |= {f"{name}_{t:g}": shares[..., k * width + j] for j, t in enumerate(THRESHOLDS)}
        return {name: rounded(value, rules.decimals) for name, value in figures.items()}

    return Scores(
        family="multi_segment",
        items=item_names(items, len(truth)),
        statistics=columns,
        combine=combine,
        counts={
            **answer_counts(predictions),
            "empty": sum(p is not None and p is not MISSING and not len(p) for p in predictions),
            "predicted_segments": told,
            "true_segments": int(counts.sum()),
        },
        per_item={"f1": columns[:, 1 : 1 + width].mean(axis=1)},
        convention=convention,
        policies=policies(rules) | {"thresholds": list(THRESHOLDS)},
    )


def best_overlaps(
    predicted: NDArray[np.float64], true: NDArray[np.float64], union: Union = "hull", single: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Best IoU of each predicted segment with any true one, [P], and of each true one with any predicted, [T].

    ``predicted`` [P, 2] and ``true`` [T, 2], each with at least one row. Memory stays bounded for 10^5 segments.
    """
    best_P, best_T = np.zeros(len(predicted)), np.zeros(len(true))
    rows = max(1, _CELLS_AT_ONCE // len(true))
    for begin in range(0, len(predicted), rows):
        iou = iou_of(predicted[begin : begin + rows, None], true[None], union=union, single=single)
        best_P[begin : begin + rows] = iou.max(axis=1)
        np.maximum(best_T, iou.max(axis=0), out=best_T)
    return best_P, best_T
