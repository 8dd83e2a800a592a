"""R@1 and mIoU of one window per query: TimeChat, VTG-LLM, TRACE, E.T. Chat, MUSEG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..answer_text import read_segments
from ..grounding import THRESHOLDS, moment_retrieval
from ..oracle import NotCovered

_CONVENTIONS = {
    "timechat": "timechat",
    "vtgllm": "vtgllm",
    "trace": "trace",
    "etbench": "etchat",  # the grounding script of the E.T. Chat model
    "museg_single": "museg",
}


def figures(reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """Percent for TimeChat's family, fractions for E.T. Chat and MUSEG; TRACE prints its mean IoU as a fraction."""
    if reference not in _CONVENTIONS:
        raise NotCovered(f"no convention for {reference}")
    rows = inputs["ground_truth"]
    told = [inputs["predictions"][str(row["id"])] for row in rows]
    scores = moment_retrieval(
        [[row["timestamp"]] for row in rows],
        [_read(windows) if reference == "museg_single" else windows or None for windows in told],
        items=[str(row["id"]) for row in rows],
        convention=_CONVENTIONS[reference],
    )
    values = {name: np.nan if value is None else value for name, value in scores.figures().items()}
    if reference == "museg_single":
        out = {f"f1_single_{t}": values[f"r1_{t}"] / 100 for t in (0.1, 0.3, 0.5, 0.7)}
        return {"tot": len(rows), "m_iou": values["miou"] / 100, **out, "mean_f1_single": values["r1_mean"] / 100}
    scale = 100 if reference == "etbench" else 1
    out = {f"R@{t}": values[f"r1_{t}"] / scale for t in THRESHOLDS}
    return {**out, "mIoU": values["miou"] / 100, "failed": scores.counts["questions"] - scores.counts["parsed"]}


def _read(windows: Sequence[Sequence[float]]) -> list[tuple[float, float]] | None:
    """MUSEG reads text: the windows as it would be told them."""
    return read_segments(" ".join(f"{start_s}-{end_s}" for start_s, end_s in windows), "museg")
