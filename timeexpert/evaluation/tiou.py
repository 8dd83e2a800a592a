"""Temporal IoU of segments, one pair at a time or in arrays, and segments of truth and answers as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import EvaluationError

Segment = tuple[float, float]  # (start_s, end_s)
Union = Literal["hull", "lengths"]


def temporal_iou(a: Segment, b: Segment) -> float:
    """Intersection over union of two (start, end) segments in seconds, in [0, 1].

    A zero-length or reversed segment overlaps nothing: its IoU is 0, also with itself. Raises
    :class:`EvaluationError` on NaN and infinity.
    """
    (a_start, a_end), (b_start, b_end) = a, b
    if not all(map(isfinite, (a_start, a_end, b_start, b_end))):
        raise EvaluationError(f"segments {a!r} and {b!r} must be finite numbers of seconds.")
    intersection = min(a_end, b_end) - max(a_start, b_start)
    if intersection <= 0:
        return 0.0
    return intersection / (max(a_end, b_end) - min(a_start, b_start))


def iou_of(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    *,
    union: Union = "hull",
    single: bool = False,
    undefined: float = 0.0,
    epsilon_s: float = 0.0,
) -> NDArray[np.float64]:
    """IoU of segments [..., 2] with segments [..., 2], which broadcast; float64 [...].

    ``union="hull"`` divides by latest end minus earliest start (TimeChat), ``"lengths"`` by the sum of lengths less
    the intersection (E.T. Bench, moment_detr): the same wherever two segments overlap, up to rounding. ``single``
    computes in float32, as torch does. ``undefined`` stands for 0/0. ``epsilon_s`` is added to the union, as dense
    captioning scripts do. What is not finite overlaps nothing.
    """
    finite = np.isfinite(a).all(axis=-1) & np.isfinite(b).all(axis=-1)
    with np.errstate(all="ignore"):
        if single:
            a, b = a.astype(np.float32), b.astype(np.float32)
        start = np.maximum(a[..., 0], b[..., 0])
        end = np.minimum(a[..., 1], b[..., 1])
        intersection = np.maximum(end - start, 0)
        if union == "hull":
            whole = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
        else:
            whole = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - intersection
        whole = whole + epsilon_s if epsilon_s else whole
        iou = (intersection / whole).astype(np.float64)
        iou = np.where((intersection == 0) & (whole != 0), 0.0, iou)
    iou = np.where(finite & np.isfinite(iou), np.minimum(iou, 1.0), 0.0)
    return np.where(finite & (whole == 0), undefined, iou)


def answered_segments(segments: Sequence[Any]) -> NDArray[np.float64]:
    """Segments of an answer, float64 [n, 2]; what cannot be read as two numbers becomes NaN."""
    try:
        array = np.array(segments, dtype=np.float64)
        if array.ndim == 2 and array.shape[1] == 2:
            return array
    except (TypeError, ValueError, OverflowError):
        pass
    return np.array([_two_numbers(segment) for segment in segments], dtype=np.float64).reshape(-1, 2)


def _two_numbers(segment: Any) -> tuple[float, float]:
    try:
        start_s, end_s = segment
        return float(start_s), float(end_s)
    except (TypeError, ValueError, OverflowError):
        return np.nan, np.nan


def true_segments(
    truth: Sequence[Sequence[Segment]], items: Sequence[str] | None, *, may_be_empty: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """All true segments, float64 [n, 2], and how many each item has, int64 [items].

    Raises :class:`EvaluationError` naming the item where it has no segment (unless ``may_be_empty``), or one that
    is not two finite numbers with the end at or after the start.
    """
    counts = np.array([len(segments) for segments in truth], dtype=np.int64)
    if not may_be_empty and (counts == 0).any():
        at = named(int(np.flatnonzero(counts == 0)[0]), items)
        raise EvaluationError(f"{at} has no segment; a query must have at least one. Leave such queries out.")
    flat = [segment for segments in truth for segment in segments]
    array = answered_segments(flat)
    wrong = ~(np.isfinite(array).all(axis=1) & (array[:, 1] >= array[:, 0]))
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        at = named(int(np.searchsorted(np.cumsum(counts), place, side="right")), items)
        raise EvaluationError(
            f"{at} holds the segment {flat[place]!r}; a true segment must be two finite numbers of seconds, the end "
            "not before the start. Correct it or leave the query out."
        )
    return array, counts


def named(index: int, items: Sequence[str] | None) -> str:
    """How a message names an item of the truth."""
    return f"truth[{index}]" if items is None else f"truth of {items[index]!r}"
