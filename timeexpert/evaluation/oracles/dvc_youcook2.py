"""Dense captioning as TimeChat, VTG-LLM and TRACE score YouCook2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from timeexpert.evaluation import captioning, soda
from timeexpert.evaluation.caption_events import TimedCaptions, videos_of
from timeexpert.evaluation.errors import MISSING
from timeexpert.evaluation.meteor import Meteor
from timeexpert.evaluation.oracle import NotCovered
from timeexpert.evaluation.scores import Scores

from .meteor_process import shared_meteor

NAMES = {"cider": "CIDER", "meteor": "METEOR", "precision": "Precision_Mean", "recall": "Recall_Mean", "f1": "F1_Score"}
NAMES |= {
    f"{ours}_{t}": f"{theirs}@{t}"
    for t in captioning.THRESHOLDS
    for ours, theirs in (("precision", "Precision"), ("recall", "Recall"))
}
NAMES |= {"soda_c": "SODA_c_2"}


def figures(reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """Fractions (CIDEr of 10): the mean over videos, each video, and the paragraph figures."""
    return figures_with(shared_meteor(), reference, inputs)


def figures_with(meteor: Meteor | None, reference: str, inputs: Mapping[str, Any]) -> Any:
    """As :func:`figures`; without ``meteor`` what needs it is left out."""
    rows = inputs["ground_truth"]
    names = [row["image_id"].split("/")[-1] for row in rows]
    truth = [TimedCaptions.of(row["segments"], _captions(row)) for row in rows]
    told = [_events(inputs["predictions"], name) for name in names]
    if reference == "timechat_numeric_columns":
        return _own_columns(names, truth, told, meteor)
    if reference not in captioning.CONVENTIONS:
        raise NotCovered(f"no convention {reference!r}")
    scores = captioning.dense_captioning(truth, told, items=names, convention=reference, meteor=meteor)
    one_by_one = {}
    for i, name in enumerate(names):
        if told[i] is not MISSING or reference != "trace":
            one_by_one[name] = _row(scores, scores.statistics[i]) | {"n_preds": _count(told[i])}
    asked = [_count(t) for t in told if t is not MISSING or reference != "trace"]
    all_videos = scores.figures()
    own = [n for n in ("cider", "meteor") if f"paragraph_{n}" in all_videos]
    paragraph = {f"Para_{n.upper()}": (all_videos[f"paragraph_{n}"] or 0.0) / 100 for n in own}
    mean = _row(scores, scores.statistics.sum(axis=0)) | {"n_preds": float(np.mean(asked)) if asked else 0.0}
    return {"mean": mean, "per_video": one_by_one, "paragraph": paragraph}


def _row(scores: Scores, sums: np.ndarray) -> dict[str, float]:
    said = scores.combine(sums)
    return {theirs: float(said[ours]) / 100 for ours, theirs in NAMES.items() if ours in said}


def _own_columns(
    names: Sequence[str], truth: Sequence[TimedCaptions], told: Sequence[Any], meteor: Meteor | None
) -> dict[str, Any]:
    if meteor is None:
        return {}
    rules = replace(soda.CONVENTIONS["timechat"], columns="own")
    values = soda.soda_of(videos_of(truth, told, names, None), rules, "c", meteor)[:, 2]
    return {
        "mean": {"SODA_c_2": float(values.mean())},
        "per_video": {name: {"SODA_c_2": float(v)} for name, v in zip(names, values, strict=True)},
    }


def _captions(row: Mapping[str, Any]) -> list[str]:
    return [caption + "." for caption in row["pure_cap"].split(". ")]


def _events(predictions: Mapping[str, Any], name: str) -> Any:
    if name not in predictions:
        return MISSING
    events = predictions[name]
    return TimedCaptions.of([e["timestamp"] for e in events], [e["caption"] for e in events])


def _count(events: Any) -> float:
    return 0.0 if events is MISSING else float(len(events))
