"""moment_detr on QVHighlights saliency: ``eval_highlight`` and its values per query and annotator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import MISSING
from ..highlights import LEVELS, HighlightTruth, average_precision, clip_points, clip_scores, highlight_detection
from ..oracle import NotCovered

_NAMES = {"fair": "Fair", "good": "Good", "verygood": "VeryGood"}


def figures(reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """``moment_detr``: percent of two decimals; ``moment_detr.per_query``: fractions in the order of the submission."""
    name, _, part = reference.partition(".")
    if name != "moment_detr":
        raise NotCovered(f"no convention for {name}")
    rows = {row["qid"]: row for row in inputs["ground_truth"]}
    submitted = {row["qid"]: clip_points(row["pred_saliency_scores"]) for row in inputs["submission"]}
    if part:
        return _per_query(rows, submitted)
    truth = [_truth(row) for row in rows.values()]
    points = [submitted.get(qid, MISSING) for qid in rows]
    values = highlight_detection(truth, points, convention=name).figures()
    return {
        f"HL-min-{title}": {"HL-mAP": values[f"map_{level}"], "HL-Hit1": values[f"hit1_{level}"]}
        for level, title in _NAMES.items()
    }


def _truth(row: Mapping[str, Any]) -> HighlightTruth:
    return HighlightTruth.from_annotations(row["relevant_clip_ids"], row["saliency_scores"], row["duration"])


def _per_query(rows: Mapping[Any, Any], submitted: Mapping[Any, Any]) -> dict[str, Any]:
    order = [qid for qid in submitted if qid in rows]
    truth = [_truth(rows[qid]) for qid in order]
    scores = clip_scores(truth, [submitted[qid] for qid in order], "moment_detr")
    out: dict[str, Any] = {"order": order}
    single = [highlight_detection([t], [submitted[qid]]).figures() for qid, t in zip(order, truth, strict=True)]
    for level, title in _NAMES.items():
        aps = [
            [average_precision(column >= LEVELS[level], row) for column in t.scores.T]
            for t, row in zip(truth, scores, strict=True)
        ]
        out[title] = {"ap": aps, "hit": [np.float64(f[f"hit1_{level}"]) / 100 for f in single]}
    return out
