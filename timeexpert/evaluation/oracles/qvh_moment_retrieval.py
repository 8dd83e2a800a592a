"""moment_detr and lighthouse on QVHighlights windows: ``eval_submission`` and its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import MISSING
from ..moment_map import CONVENTIONS, THRESHOLDS, moment_map
from ..oracle import NotCovered
from ..scores import Scores


def figures(reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """Figures of one reference: ``moment_detr`` (whole, per query, first window, full range alone), ``lighthouse``."""
    name, _, part = reference.partition(".")
    if name not in CONVENTIONS:
        raise NotCovered(f"no convention for {name}")
    submitted = {row["qid"]: row["pred_relevant_windows"] for row in inputs["submission"]}
    rows = inputs["ground_truth"]
    scores = moment_map(
        [row["relevant_windows"] for row in rows],
        [submitted.get(row["qid"], MISSING) for row in rows],
        items=[str(row["qid"]) for row in rows],
        convention=name,
    )
    if part == "per_query_AP":
        return _per_query(scores)
    if part == "R1_iou":
        return dict(zip(scores.items, scores.per_item["iou"].tolist(), strict=True))
    if part == "full_range_only":
        return _range(scores, "")
    return _summary(scores, [length[0] for length in CONVENTIONS[name].lengths])


def _per_query(scores: Scores) -> dict[str, list[float]]:
    width = len(THRESHOLDS)
    aps = scores.per_item["ap"]
    return {item: scores.statistics[i, 1 : width + 1].tolist() for i, item in enumerate(scores.items) if aps.size}


def _range(scores: Scores, tail: str) -> dict[str, Any]:
    values = {name: np.nan if value is None else value for name, value in scores.figures().items()}
    at = {str(t): f"{tail}_{t:g}" for t in THRESHOLDS}
    maps = {key: values[f"map{end}"] for key, end in at.items()}
    return {
        "MR-mAP": {**maps, "average": values[f"map{tail}"]},
        "MR-R1": {key: values[f"r1{end}"] for key, end in at.items()},
    }


def _summary(scores: Scores, lengths: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {"full": _range(scores, "")}
    out |= {name: _range(scores, f"_{name}") for name in lengths}
    brief = {"MR-full-mAP": out["full"]["MR-mAP"]["average"]}
    brief |= {f"MR-full-mAP@{t}": out["full"]["MR-mAP"][t] for t in ("0.5", "0.75")}
    brief |= {f"MR-full-R1@{t}": out["full"]["MR-R1"][t] for t in ("0.5", "0.7")}
    brief |= {f"MR-{name}-mAP": out[name]["MR-mAP"]["average"] for name in lengths}
    return {"brief": brief, **out}
