"""Moment retrieval with ranked windows (QVHighlights): mAP over IoU 0.5:0.05:0.95, R1, and mAP by window length.

Equal to ``moment_detr`` (``standalone_eval/eval.py`` and ``utils.py``) and ``lighthouse``
(``training/standalone_eval/eval.py``) under the conventions of their names; both print two decimals. As there: at
most the first 10 listed windows count; they are ranked by score (equal scores keep their order); each takes the
unmatched true window of highest IoU, a hit where that IoU reaches the threshold; average precision interpolates
over all points. R1 looks at the first listed window, whatever its score. The length ranges of QVHighlights keep
the true windows of that length and leave predictions as they are.

``strict`` differs where the references do damage: a query without windows scores 0 in mAP (there it leaves the
mean) and in R1 (there an IndexError); 0/0 IoU is 0 (there a true positive in mAP); a missing query scores 0 (there
an AssertionError, or left out). An empty length range has no figure (there a TypeError).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .conventions import chosen, policies, rounded, share
from .errors import MISSING, Missing, require_same_length
from .scores import Figures, Scores, answer_counts, item_names
from .tiou import Segment, iou_of, true_segments

THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
_MAX_WINDOWS = 10
_CELLS_AT_ONCE = 2_000_000  # queries x windows x true windows x thresholds
_LENGTHS = (("short", 0.0, 10.0), ("middle", 10.0, 30.0), ("long", 30.0, 150.0))


@dataclass(frozen=True)
class MapConvention:
    """Switches. ``lengths``: (name, above, up to) in seconds. ``full``: the lengths that count at all."""

    without_windows: Literal["miss", "drop"] = "miss"
    missing: Literal["miss", "drop"] = "miss"
    truth_without_windows: Literal["error", "drop", "nan"] = "error"
    zero_over_zero: Literal["miss", "hit"] = "miss"
    full: tuple[float, float] | None = None
    lengths: tuple[tuple[str, float, float], ...] = _LENGTHS
    decimals: int | None = None


CONVENTIONS: Mapping[str, MapConvention] = {
    "strict": MapConvention(),
    "moment_detr": MapConvention(
        without_windows="drop", missing="drop", truth_without_windows="nan", zero_over_zero="hit", decimals=2
    ),
    "lighthouse": MapConvention(
        without_windows="drop",
        missing="drop",
        truth_without_windows="drop",
        zero_over_zero="hit",
        full=(0.0, 1500.0),
        lengths=(),
        decimals=2,
    ),
}

Window = Sequence[float]  # start_s, end_s, score


def moment_map(
    truth: Sequence[Sequence[Segment]],
    predictions: Sequence[Sequence[Window] | Missing | None],
    *,
    items: Sequence[str] | None = None,
    convention: str = "strict",
) -> Scores:
    """Score ranked (start_s, end_s, score) windows of each query against its true windows.

    ``predictions[i]`` is ``[]`` for an answer without windows, ``None`` for one that did not parse, ``MISSING``
    where there is none. A window that is not three finite numbers overlaps nothing and ranks last.

    Figures in percent: ``map`` and ``map_T`` for T from 0.5 to 0.95, ``r1_T``, and per length range
    ``map_short``, ``map_short_T``, ``r1_short_T`` and so on; ``None`` where a range has no query.
    ``per_item``: ``ap`` (mean over thresholds, in [0, 1]), ``iou`` of the first window. Counts beside the usual
    ones: ``empty``, ``windows``, ``windows_not_counted`` (listed after the tenth).
    """
    rules = chosen(CONVENTIONS, convention, "moment retrieval mAP")
    require_same_length(truth, predictions)
    segments, counts = true_segments(truth, items, may_be_empty=rules.truth_without_windows != "error")
    windows, listed = _windows(predictions)
    asked = np.array([p is not MISSING for p in predictions], dtype=bool) | (rules.missing == "miss")

    names, blocks, per_item = [], [], {}
    for name, above, up_to in (("", *(rules.full or (-np.inf, np.inf))), *rules.lengths):
        length = segments[:, 1] - segments[:, 0]
        kept = (length > above) & (length <= up_to)
        owner = np.repeat(np.arange(len(counts)), counts)
        per_query = np.bincount(owner[kept], minlength=len(counts))
        ap, iou = _range(segments[kept], per_query, windows, listed, rules)
        if not name:
            per_item = {"ap": ap.mean(axis=1) if len(ap) else np.zeros(0), "iou": iou}
        in_range = asked & (per_query > 0)
        if not name and rules.truth_without_windows == "nan":
            in_range = asked
            ap[per_query == 0] = np.nan
        in_map = in_range & ((listed > 0) | (rules.without_windows == "miss"))
        names.append(name)
        blocks.append(np.where(in_map[:, None], np.column_stack([np.ones(len(ap)), ap]), 0.0))
        hits = np.column_stack([np.ones(len(ap)), *(iou >= t for t in THRESHOLDS)])
        blocks.append(np.where((in_range & (per_query > 0))[:, None], hits, 0.0))

    def combine(sums: NDArray[np.float64]) -> Figures:
        figures: dict[str, NDArray[np.float64]] = {}
        width = len(THRESHOLDS) + 1
        for k, name in enumerate(names):
            tail = f"_{name}" if name else ""
            part = sums[..., 2 * k * width : 2 * (k + 1) * width]
            aps, hits = (share(p[..., 1:], p[..., 0]) for p in (part[..., :width], part[..., width:]))
            figures[f"map{tail}"] = aps.mean(axis=-1)
            figures |= {f"map{tail}_{t:g}": aps[..., i] for i, t in enumerate(THRESHOLDS)}
            figures |= {f"r1{tail}_{t:g}": hits[..., i] for i, t in enumerate(THRESHOLDS)}
        return {name: rounded(value, rules.decimals) for name, value in figures.items()}

    answers = answer_counts(predictions)
    told = [len(p) if p is not MISSING and p is not None else 0 for p in predictions]
    return Scores(
        family="moment_map",
        items=item_names(items, len(truth)),
        statistics=np.concatenate(blocks, axis=1),
        combine=combine,
        counts={
            **answers,
            "empty": answers["parsed"] - int((listed > 0).sum()),
            "windows": sum(told),
            "windows_not_counted": sum(max(0, n - _MAX_WINDOWS) for n in told),
        },
        per_item=per_item,
        convention=convention,
        policies=policies(rules),
    )


def _windows(predictions: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The first ten windows of each query, float64 [queries, 10, 3], NaN where there is none; and how many."""
    rows = [list(p[:_MAX_WINDOWS]) if p is not MISSING and p is not None else [] for p in predictions]
    listed = np.array([len(row) for row in rows], dtype=np.int64)
    out = np.full((len(rows), _MAX_WINDOWS, 3), np.nan)
    flat = [window for row in rows for window in row]
    try:
        array = np.array(flat, dtype=np.float64).reshape(len(flat), 3)
    except (TypeError, ValueError, OverflowError):
        array = np.array([_three_numbers(window) for window in flat]).reshape(-1, 3)
    out[np.arange(_MAX_WINDOWS) < listed[:, None]] = array
    return out, listed


def _three_numbers(window: Any) -> tuple[float, float, float]:
    try:
        start_s, end_s, score = window
        return float(start_s), float(end_s), float(score)
    except (TypeError, ValueError, OverflowError):
        return np.nan, np.nan, np.nan


def _range(
    segments: NDArray[np.float64],
    counts: NDArray[np.int64],
    windows: NDArray[np.float64],
    listed: NDArray[np.int64],
    rules: MapConvention,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AP [queries, thresholds] and IoU [queries] of the first listed window, queries of like size together."""
    ap = np.zeros((len(counts), len(THRESHOLDS)))
    first = np.zeros(len(counts))
    begins = np.cumsum(counts) - counts
    order = np.argsort(counts, kind="stable")
    order = order[(counts[order] > 0) & (listed[order] > 0)]
    while len(order):
        width = int(counts[order[-1]])  # the largest that are left, as many as fit
        fit = max(1, _CELLS_AT_ONCE // (width * _MAX_WINDOWS * len(THRESHOLDS)))
        fit = min(fit, int((counts[order] * 2 >= width).sum()))
        part, order = order[-fit:], order[:-fit]
        place = np.arange(width)
        there = place < counts[part][:, None]
        true_QG2 = np.where(there[..., None], segments[np.where(there, begins[part][:, None] + place, 0)], np.nan)
        ap[part], first[part] = _average_precisions(windows[part], true_QG2, counts[part], rules)
    return ap, first


def _average_precisions(
    windows_QP3: NDArray[np.float64],
    true_QG2: NDArray[np.float64],
    counts: NDArray[np.int64],
    rules: MapConvention,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``true_QG2`` is NaN behind each query's true windows. Returns AP [Q, T] and IoU of the first window [Q]."""
    undefined = np.inf if rules.zero_over_zero == "hit" else 0.0  # inf ranks first, as NaN does in the references
    iou_QPG = iou_of(windows_QP3[:, :, None, :2], true_QG2[:, None], union="lengths", undefined=undefined)
    hull_QG = iou_of(windows_QP3[:, :1, :2], true_QG2)
    there_QG = np.isfinite(true_QG2[..., 0])
    iou_QPG = np.where(there_QG[:, None], np.where(np.isfinite(windows_QP3[:, :, None, 0]), iou_QPG, 0.0), -1.0)
    # The reference picks the best true window by the first measure and reports the second.
    best = np.where(there_QG, iou_QPG[:, 0], -1.0).argmax(axis=1)
    first = hull_QG[np.arange(len(best)), best]

    score = windows_QP3[..., 2]
    rank = np.argsort(np.where(np.isnan(score), np.inf, -score), axis=1, kind="stable")
    iou_QPG = np.take_along_axis(iou_QPG, rank[..., None], axis=1)
    best_first = np.argsort(iou_QPG, axis=2, kind="stable")[..., ::-1]  # of equal IoUs the last true window, as there
    reaches = iou_QPG[:, :, None, :] >= np.array(THRESHOLDS)[:, None]  # [Q, P, T, G]
    free = np.ones((len(iou_QPG), len(THRESHOLDS), true_QG2.shape[1]), dtype=bool)
    hit_QTP = np.zeros((len(iou_QPG), len(THRESHOLDS), _MAX_WINDOWS), dtype=bool)
    for p in range(_MAX_WINDOWS):
        by_iou = np.broadcast_to(best_first[:, p, None, :], free.shape)
        open_to_it = np.take_along_axis(reaches[:, p] & free, by_iou, axis=2)
        hit_QTP[..., p] = open_to_it.any(axis=2)
        taken = np.take_along_axis(by_iou, open_to_it.argmax(axis=2)[..., None], axis=2)
        left = np.take_along_axis(free, taken, axis=2)[..., 0] & ~hit_QTP[..., p]
        np.put_along_axis(free, taken, left[..., None], axis=2)
    precision = np.cumsum(hit_QTP, axis=2) / np.arange(1, _MAX_WINDOWS + 1)  # windows that are not there rank last
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    return (envelope * hit_QTP).sum(axis=2) / counts[:, None], first
