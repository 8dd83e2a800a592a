"""MS-TCN's ``eval.py``: accuracy, Edit and F1 of the whole set, and what it counted in each video."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..frame_labels import FrameLabels
from ..oracle import NotCovered
from ..segmentation import COLUMNS, OVERLAPS, action_segmentation


def figures(reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """``ms_tcn``: what the script prints; ``ms_tcn.functions``: unrounded, with counts per video."""
    if reference not in ("ms_tcn", "ms_tcn.functions"):
        raise NotCovered(f"no such reference: {reference}")
    sides = ({n: FrameLabels.from_runs(v[side]) for n, v in inputs["videos"].items()} for side in ("gt", "pred"))
    scores = action_segmentation(*sides, convention="ms_tcn")
    ours = {name: math.nan if value is None else value for name, value in scores.figures().items()}
    style = "F1@{:.2f}" if reference == "ms_tcn" else "F1@{:.0%}"
    named = {style.format(overlap).rstrip("%"): ours[f"f1_{overlap}"] for overlap in OVERLAPS}
    summary = {"Acc": ours["accuracy"], "Edit": ours["edit"], **named}
    if reference == "ms_tcn":
        return summary
    rows = {
        name: dict(zip(COLUMNS, row, strict=True)) for name, row in zip(scores.items, scores.statistics, strict=True)
    }
    return {"summary": summary, "per_video": {name: _counted(row) for name, row in rows.items()}}


def _counted(row: Mapping[str, float]) -> dict[str, Any]:
    counted: dict[str, Any] = {name: row[name] for name in ("correct", "frames", "edit")}
    for overlap in OVERLAPS:
        found = row[f"found_{overlap}"]
        counted[f"tp_fp_fn@{overlap:.0%}".rstrip("%")] = [found, row["predicted"] - found, row["true"] - found]
    return counted
