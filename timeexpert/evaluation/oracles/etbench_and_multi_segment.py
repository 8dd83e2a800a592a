"""E.T. Bench's task metrics on answer text, and MUSEG's multi-segment F1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..answer_text import read_segments
from ..etbench import THRESHOLDS, etbench_task
from ..meteor import Meteor
from ..multi_segment import multi_segment_f1
from ..oracle import NotCovered
from ..scores import Scores
from .meteor_process import shared_meteor


def figures(reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """Fractions, as both scripts print them."""
    return figures_with(shared_meteor() if case["task"] in ("dvc", "slc") else None, reference, inputs, case)


def figures_with(meteor: Meteor | None, reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """As :func:`figures`; without ``meteor`` what needs it is left out."""
    if reference == "museg":
        return _museg(inputs["rows"])
    if reference != "etbench":
        raise NotCovered(f"no convention for {reference}")
    task = case["task"]
    scores = etbench_task(task, inputs["samples"], convention="etbench", meteor=meteor)
    counts = scores.counts
    values = _fractions(scores)
    failed = counts["questions"] - counts["parsed"]
    head = {"Total": counts["questions"], "Failed": counts.get("right_without_window", failed)}
    if task in ("tvg", "epm"):
        return {**head, "mIoU": values["miou"], **_at("F1", "r1", values), "F1": values["r1_mean"]}
    if task in ("tem", "gvq"):
        extra = {"Acc": values["accuracy"]} if task == "gvq" else {}
        return {**head, "mIoU": values["miou"], **_at("R", "r1", values), "mRec": values["r1_mean"], **extra}
    if task in ("vhd", "evs"):
        return {**head, "F1": 0.0 if np.isnan(values["f1"]) else values["f1"]}
    if task in ("rvq", "eca", "rar"):
        return {**head, "Acc": values["accuracy"]}
    return {**head, "F1": values["f1"], **_at("F1", "f1", values), **_words(values)}


def _museg(rows: list[Any]) -> dict[str, Any]:
    told = [read_segments(text, "museg") for _, text in rows]
    values = _fractions(multi_segment_f1([windows for windows, _ in rows], told, convention="museg"))
    at = {f"f1_multi_{t}": values[f"f1_{t}"] for t in THRESHOLDS}
    return {"tot": len(rows), **at, "mean_f1_multi": values["f1"]}


def _fractions(scores: Scores) -> dict[str, float]:
    return {name: np.nan if value is None else value / 100 for name, value in scores.figures().items()}


def _at(title: str, name: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{title}@{t}": values[f"{name}_{t}"] for t in THRESHOLDS if f"{name}_{t}" in values}


def _words(values: Mapping[str, float]) -> dict[str, float]:
    named = {"CIDEr": "cider", "METEOR": "meteor", "ROUGE_L": "rouge_l"} | {
        f"Bleu_{n}": f"bleu_{n}" for n in range(1, 5)
    }
    return {title: values[name] for title, name in named.items() if name in values}
