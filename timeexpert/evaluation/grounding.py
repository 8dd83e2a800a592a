"""Moment retrieval: Recall@1 at temporal IoU thresholds, and mean IoU.

Equal to the ``timechat`` reference (``metrics/tvg/eval_tvg.py``; also ``vtgllm``) for R@1 and to ``etbench``
for the mean IoU over all queries. Faults of references that are not copied: TRACE leaves unparsed answers out
of the denominator; TimeChat crashes on a zero-length window equal to the truth (IoU is 0 here, as E.T. Bench
has it); E.T. Bench and MUSEG compute in float32, where an IoU of exactly 0.7 falls below the threshold 0.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from .errors import EvaluationError, require_same_length

Segment = tuple[float, float]  # (start_s, end_s)
THRESHOLDS = (0.3, 0.5, 0.7)


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


def moment_retrieval(
    truth: Sequence[Sequence[Segment]], predictions: Sequence[Sequence[Segment] | None]
) -> dict[str, Any]:
    """Score the first predicted segment of each query against its best true segment.

    ``truth[i]`` holds one or more segments; ``predictions[i]`` the predicted ones in the order they were
    written, ``[]`` for an answer without a segment and ``None`` for one that did not parse. Both are misses
    with IoU 0. An IoU equal to a threshold is a hit.

    Returns percent figures ``r1_0.3``, ``r1_0.5``, ``r1_0.7``, ``miou`` (``None`` without queries) and the
    counts ``count``, ``unparsed`` (``None``), ``empty`` (``[]``), ``extra_segments`` (written, not scored).
    """
    require_same_length(truth, predictions)
    ious = []
    for i, (true_segments, predicted) in enumerate(zip(truth, predictions, strict=True)):
        if not true_segments:
            raise EvaluationError(f"truth[{i}] has no segment; a query must have at least one. Leave such queries out.")
        ious.append(max(temporal_iou(predicted[0], t) for t in true_segments) if predicted else 0.0)

    def percent(values: Sequence[float]) -> float | None:
        return 100.0 * sum(values) / len(values) if values else None

    return {
        **{f"r1_{t}": percent([iou >= t for iou in ious]) for t in THRESHOLDS},
        "miou": percent(ious),
        "count": len(ious),
        "unparsed": sum(p is None for p in predictions),
        "empty": sum(p is not None and not p for p in predictions),
        "extra_segments": sum(len(p) - 1 for p in predictions if p),
    }
