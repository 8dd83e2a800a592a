"""Moment retrieval with one window per query: Recall@1 at temporal IoU thresholds, and mean IoU.

Conventions, by the files whose figures they repeat: ``timechat`` and ``vtgllm`` (``metrics/tvg/eval_tvg.py``),
``trace`` (``trace/metrics/tvg/eval_tvg.py``: answers without a window leave the denominator), ``etchat`` (E.T. Chat,
``etchat/eval/eval_grounding.py``: float32, figures of three decimals of a fraction), ``etbench`` (the tvg, epm and
tem tasks of ``compute_metrics.py``: float32, 0/0 is NaN), ``museg`` (``src/eval_grounding.py``: float32, the first
true window only), ``lmms_eval`` (``charades_sta/utils.py``). In float32 an IoU of exactly 0.7 is below 0.7.
Not copied: TimeChat, VTG-LLM and TRACE stop with a division by zero where two windows have zero length and are
equal (0 here), and TRACE where nothing parsed (no figure here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .conventions import chosen, policies, rounded, share
from .errors import MISSING, EvaluationError, Missing, require_same_length
from .scores import Figures, Scores, answer_counts, item_names
from .tiou import Segment, Union, answered_segments, iou_of, temporal_iou, true_segments

__all__ = ["CONVENTIONS", "MomentConvention", "Segment", "loombench_when", "moment_retrieval", "temporal_iou"]

THRESHOLDS = (0.3, 0.5, 0.7)


@dataclass(frozen=True)
class MomentConvention:
    """How answers become figures. ``decimals`` rounds percent figures; ``None`` keeps them exact."""

    without_window: Literal["miss", "drop"] = "miss"
    truth: Literal["best", "first"] = "best"
    union: Union = "hull"
    precision: Literal["float64", "float32"] = "float64"
    zero_over_zero: Literal["zero", "nan"] = "zero"
    thresholds: tuple[float, ...] = THRESHOLDS
    decimals: int | None = None


_FOUR = (0.1, 0.3, 0.5, 0.7)
CONVENTIONS: Mapping[str, MomentConvention] = {
    "strict": MomentConvention(),
    "timechat": MomentConvention(),
    "vtgllm": MomentConvention(),
    "trace": MomentConvention(without_window="drop"),
    "etchat": MomentConvention(union="lengths", precision="float32", decimals=1),
    "etbench": MomentConvention(
        union="lengths", precision="float32", zero_over_zero="nan", thresholds=_FOUR, decimals=3
    ),
    "museg": MomentConvention(truth="first", union="lengths", precision="float32", thresholds=_FOUR),
    "lmms_eval": MomentConvention(),
}


def moment_retrieval(
    truth: Sequence[Sequence[Segment]],
    predictions: Sequence[Sequence[Segment] | Missing | None],
    *,
    items: Sequence[str] | None = None,
    convention: str = "strict",
    thresholds: Sequence[float] | None = None,
) -> Scores:
    """Score the first predicted segment of each query against its best true segment.

    ``truth[i]`` holds one or more segments; ``predictions[i]`` the predicted ones in the order they were written,
    ``[]`` for an answer without a segment, ``None`` for one that did not parse, ``MISSING`` where there is none: all
    three are misses with IoU 0. An IoU equal to a threshold is a hit. ``thresholds`` replace the convention's.

    Figures: ``r1_T`` for each threshold, ``r1_mean`` over them, and ``miou``, in percent. Counts beside the usual
    ones: ``count`` (questions), ``unparsed`` (of these without a parsed answer), ``empty`` (parsed, without a
    segment), ``extra_segments`` (written, not scored). ``per_item``: ``iou``.
    Raises :class:`EvaluationError` on truth that cannot be scored and on unknown conventions.
    """
    rules = chosen(CONVENTIONS, convention, "moment retrieval")
    require_same_length(truth, predictions)
    at = tuple(thresholds) if thresholds is not None else rules.thresholds
    if not at or not all(0 < t <= 1 for t in at):
        raise EvaluationError(f"thresholds {list(at)!r} must be one or more numbers above 0 and at most 1.")
    segments, counts = true_segments(truth, items)
    no_window = (np.nan, np.nan)
    windows = answered_segments([p[0] if p and p is not MISSING else no_window for p in predictions])
    has_window = np.array([bool(p) and p is not MISSING for p in predictions], dtype=bool)
    iou = _best_iou(segments, counts, windows, rules) if len(truth) else np.zeros(0)

    counted = has_window if rules.without_window == "drop" else np.ones(len(truth), dtype=bool)
    columns = np.column_stack([counted, iou, *(iou >= t for t in at)]).astype(np.float64)
    statistics = np.where(counted[:, None], columns, 0.0)

    def combine(sums: NDArray[np.float64]) -> Figures:
        hits = share(sums[..., 2:], sums[..., 0])
        figures = {f"r1_{t:g}": hits[..., k] for k, t in enumerate(at)}
        figures |= {"r1_mean": hits.mean(axis=-1), "miou": share(sums[..., 1], sums[..., 0])}
        return {name: rounded(value, rules.decimals) for name, value in figures.items()}

    told = answer_counts(predictions)
    return Scores(
        family="moment_retrieval",
        items=item_names(items, len(truth)),
        statistics=statistics,
        combine=combine,
        counts={
            **told,
            "count": len(truth),
            "unparsed": len(truth) - told["parsed"],
            "empty": told["parsed"] - int(has_window.sum()),
            "extra_segments": sum(len(p) - 1 for p in predictions if p and p is not MISSING),
        },
        per_item={"iou": iou},
        convention=convention,
        policies=policies(rules) | {"thresholds": list(at)},
    )


def loombench_when(
    truth: Sequence[Sequence[Segment]],
    predictions: Sequence[Sequence[Segment] | Missing | None],
    *,
    items: Sequence[str] | None = None,
) -> Scores:
    """LoomBench's When questions (VideoLoom): ``r1_0.5`` and ``tiou``, the mean temporal IoU, in percent."""
    scores = moment_retrieval(truth, predictions, items=items, thresholds=(0.5,))

    def combine(sums: NDArray[np.float64]) -> Figures:
        figures = scores.combine(sums)
        return {"r1_0.5": figures["r1_0.5"], "tiou": figures["miou"]}

    return replace(scores, family="loombench_when", combine=combine)


def _best_iou(
    segments: NDArray[np.float64], counts: NDArray[np.int64], windows: NDArray[np.float64], rules: MomentConvention
) -> NDArray[np.float64]:
    """IoU [items] of each window with its best (or first) true segment."""
    begins = np.cumsum(counts) - counts
    first = rules.truth == "first"
    iou = iou_of(
        windows if first else np.repeat(windows, counts, axis=0),
        segments[begins] if first else segments,
        union=rules.union,
        single=rules.precision == "float32",
        undefined=0.0 if rules.zero_over_zero == "zero" else np.nan,
    )
    return iou if first else np.maximum.reduceat(iou, begins)
