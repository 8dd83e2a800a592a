"""Highlight ranking of whole videos: TVSum (top-5 mAP) and YouTube Highlights (mAP), as UMT and lighthouse score them.

Average precision is the area under precision against recall by trapezoids: each ranked clip adds (its recall step) x
(precision before it + precision at it) / 2, the first precision before it being 1. ``tvsum``: per annotator, clips
above that annotator's lower median are positive, the five clips of highest score are ranked, and recall counts the
positives among these five; an annotator without one scores 0. ``youtube_highlights``: binary labels, all clips.

Equal to lighthouse (``training/evaluate.py``, ``compute_hl_results``) under ``lighthouse``: figures of five decimals of
a fraction, videos without predictions left out. A video without any positive clip has nothing to find: it leaves the
mean of YouTube Highlights under both conventions, and is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .conventions import chosen, policies, rounded, share
from .errors import MISSING, EvaluationError, Missing, require_same_length
from .scores import Figures, Scores, answer_counts, item_names
from .tiou import named

TOP_K = 5
BENCHMARKS = ("tvsum", "youtube_highlights")


@dataclass(frozen=True)
class VideoHighlightConvention:
    """``decimals`` rounds percent figures."""

    missing: Literal["miss", "drop"] = "miss"
    decimals: int | None = None


CONVENTIONS: Mapping[str, VideoHighlightConvention] = {
    "strict": VideoHighlightConvention(),
    "lighthouse": VideoHighlightConvention("drop", 3),
}


def video_highlights(
    truth: Sequence[ArrayLike],
    predictions: Sequence[ArrayLike | Missing | None],
    benchmark: str,
    *,
    items: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
    convention: str = "strict",
) -> Scores:
    """Score a number per clip against labels [clips, annotators] of each video ([clips, 1], 0 or 1, for YouTube).

    ``benchmark`` is ``tvsum`` or ``youtube_highlights``.

    ``predictions[i]`` [clips]: further numbers are ignored; a clip without a finite one ranks last (equal ones in the
    order of the clips). ``None`` (did not parse) and ``MISSING`` score 0. ``domains`` names each video's domain.
    Figures in percent: ``map`` and ``map_DOMAIN``. ``per_item``: ``ap``, in [0, 1]. Counts beside the usual ones:
    ``without_positives`` (annotators of videos that have no positive clip).
    """
    rules = chosen(CONVENTIONS, convention, "video highlights")
    if benchmark not in BENCHMARKS:
        raise EvaluationError(f"benchmark ({benchmark!r}) must be one of {', '.join(BENCHMARKS)}.")
    require_same_length(truth, predictions)
    if domains is not None and len(domains) != len(truth):
        raise EvaluationError(f"domains names {len(domains)} videos of {len(truth)}; it must name that of each.")
    parts = np.zeros((len(truth), 2))  # rankings that count, sum of their AP
    without = 0
    for i, (label, predicted) in enumerate(zip(truth, predictions, strict=True)):
        labels = _labels(label, i, items)
        positive = labels > _lower_median(labels) if benchmark == "tvsum" else labels > 0
        has_some: NDArray[np.bool_] = np.asarray(positive.any(axis=0))
        without += int((~has_some).sum())
        counted = len(has_some) if benchmark == "tvsum" else int(has_some.sum())
        ap = 0.0
        if predicted is not None and predicted is not MISSING:
            order = np.argsort(-_per_clip(predicted, len(labels)), kind="stable")
            ranked = positive[order[:TOP_K]] if benchmark == "tvsum" else positive[order][:, has_some]
            ap = float(_trapezoid_ap(ranked).sum())
        parts[i] = counted, ap
    if rules.missing == "drop":
        parts[[p is MISSING for p in predictions]] = 0.0
    members = {"": np.ones(len(truth), dtype=bool)}
    of = np.array([str(name).lower() for name in domains or ()])
    members |= {f"_{name}": of == name for name in sorted(set(of.tolist()))}
    names = list(members)

    def combine(sums: NDArray[np.float64]) -> Figures:
        return {
            f"map{name}": rounded(share(sums[..., 2 * k + 1], sums[..., 2 * k]), rules.decimals)
            for k, name in enumerate(names)
        }

    return Scores(
        family=benchmark,
        items=item_names(items, len(truth)),
        statistics=np.concatenate([parts * inside[:, None] for inside in members.values()], axis=1),
        combine=combine,
        counts={**answer_counts(predictions), "without_positives": without},
        per_item={"ap": parts[:, 1] / np.maximum(parts[:, 0], 1)},
        convention=convention,
        policies=policies(rules),
    )


def _labels(label: ArrayLike, index: int, items: Sequence[str] | None) -> NDArray[np.float64]:
    try:
        labels = np.asarray(label, dtype=np.float64)
    except (TypeError, ValueError):
        labels = np.zeros(0)
    if labels.ndim != 2 or 0 in labels.shape or not np.isfinite(labels).all():
        raise EvaluationError(
            f"{named(index, items)} must hold finite labels [clips, annotators], of one clip or more; it has the shape "
            f"{labels.shape}. Correct it or leave the video out."
        )
    return labels


def _lower_median(labels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sort(labels, axis=0)[(len(labels) - 1) // 2]


def _per_clip(predicted: ArrayLike, clips: int) -> NDArray[np.float64]:
    """A finite number for each clip, -inf where there is none."""
    try:
        told = np.asarray(predicted, dtype=np.float64).reshape(-1)[:clips]
    except (TypeError, ValueError, OverflowError):
        told = np.zeros(0)
    scores = np.full(clips, -np.inf)
    scores[: len(told)] = np.where(np.isfinite(told), told, -np.inf)
    return scores


def _trapezoid_ap(ranked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """AP [annotators] of labels [ranks, annotators], 0 where none is positive."""
    hits = np.cumsum(ranked, axis=0)
    precision = hits / np.arange(1, len(ranked) + 1)[:, None]
    before = np.concatenate([np.ones((1, ranked.shape[1])), precision[:-1]])
    return (ranked * (before + precision) / 2).sum(axis=0) / np.maximum(hits[-1], 1)
