"""Dense captioning: are the events found (precision, recall, F1), and do found events have the right words?

Precision, recall and F1 equal the ``timechat`` reference (``metrics/dvc/eval_dvc.py``, keys ``Precision@t``,
``Recall@t``, ``Precision_Mean``, ``Recall_Mean``, ``F1_Score``, there as fractions), which is what YouCook2
tables print. As there: an overlap counts when IoU is strictly greater than the threshold, matching is many to
many, precision and recall are averaged over thresholds before one harmonic mean per video, and videos are
averaged last. A video without a prediction scores 0 (TRACE skips it).
Not copied: a reversed prediction is repaired there by sorting its ends; here it overlaps nothing.
The n-gram metrics of that script (CIDEr, METEOR, SODA_c) are not computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timeexpert.tokenization import EventSequence

from .errors import EvaluationError, require_same_length

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
# The reference adds this to the union. It decides ties: a rounded IoU a hair above its threshold stays a miss.
_UNION_EPSILON_S = 1e-8


def dense_captioning(truth: Sequence[EventSequence], predictions: Sequence[EventSequence | None]) -> dict[str, Any]:
    """Score predicted events against true ones, video by video.

    ``predictions[i]`` is ``None`` where the answer did not parse: the video scores 0. A predicted event
    without a time stays in precision's denominator and matches nothing.

    Returns percent figures ``f1``, ``precision``, ``recall`` (averaged over IoU 0.3, 0.5, 0.7, 0.9),
    ``precision_T`` and ``recall_T`` per threshold, ``caption_exact_match_0.5`` (of the true events that some
    prediction overlaps by more than 0.5, the share whose best-overlapping prediction has the same caption, up
    to case, white space and a final full stop; ``None`` without such pairs) with ``caption_pairs``, and
    ``count``, ``unparsed``, ``predicted_events``, ``true_events``. All are ``None`` without videos.
    """
    require_same_length(truth, predictions)
    precisions, recalls, f1s = [], [], []  # per video: [thresholds], [thresholds], one number
    pairs: list[bool] = []
    for i, (true_events, predicted) in enumerate(zip(truth, predictions, strict=True)):
        if not true_events.segments_s or len(true_events.segments_s) != len(true_events):
            raise EvaluationError(f"truth[{i}] must hold events that all have times; leave other videos out.")
        predicted = predicted if predicted is not None else EventSequence()
        iou_PG = _pairwise_iou(predicted, true_events)
        overlaps = [iou_PG > t for t in THRESHOLDS]
        precisions.append([float(o.any(axis=1).mean()) if len(predicted) else 0.0 for o in overlaps])
        recalls.append([float(o.any(axis=0).mean()) for o in overlaps])
        f1s.append(_harmonic_mean(float(np.mean(precisions[-1])), float(np.mean(recalls[-1]))))
        pairs += _caption_pairs(iou_PG, predicted, true_events)

    figures: dict[str, Any] = {"f1": _percent(f1s), "precision": _percent(precisions), "recall": _percent(recalls)}
    for k, threshold in enumerate(THRESHOLDS):
        figures[f"precision_{threshold}"] = _percent([p[k] for p in precisions])
        figures[f"recall_{threshold}"] = _percent([r[k] for r in recalls])
    return figures | {
        "caption_exact_match_0.5": _percent(pairs),
        "caption_pairs": len(pairs),
        "count": len(truth),
        "unparsed": sum(p is None for p in predictions),
        "predicted_events": sum(len(p) for p in predictions if p is not None),
        "true_events": sum(len(t) for t in truth),
    }


def _pairwise_iou(predicted: EventSequence, true_events: EventSequence) -> NDArray[np.float64]:
    """IoU of each predicted event (rows) with each true event (columns); rows of events without time are 0."""
    times = [(e.start_s, e.end_s) if e.start_s is not None else (0.0, 0.0) for e in predicted]
    p = np.array(times, dtype=np.float64).reshape(-1, 1, 2)
    g = np.array(true_events.segments_s, dtype=np.float64).reshape(1, -1, 2)
    intersection = np.clip(np.minimum(p[..., 1], g[..., 1]) - np.maximum(p[..., 0], g[..., 0]), 0.0, None)
    union = (p[..., 1] - p[..., 0]) + (g[..., 1] - g[..., 0]) - intersection
    return intersection / (union + _UNION_EPSILON_S)


def _caption_pairs(iou_PG: NDArray[np.float64], predicted: EventSequence, true_events: EventSequence) -> list[bool]:
    if not len(predicted):
        return []
    best = iou_PG.argmax(axis=0)
    return [
        _plain(predicted[int(p)].text) == _plain(true_events[g].text) for g, p in enumerate(best) if iou_PG[p, g] > 0.5
    ]


def _plain(caption: str) -> str:
    return " ".join(caption.casefold().split()).removesuffix(".").rstrip()


def _harmonic_mean(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _percent(values: Sequence[Any]) -> float | None:
    return 100.0 * float(np.mean(values)) if values else None
