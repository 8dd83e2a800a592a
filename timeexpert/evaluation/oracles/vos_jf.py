"""DAVIS J and F, their statistics, several objects; bidirectional foreground J&F. Fractions, not percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..bidirectional import bidirectional_foreground, foreground_scores
from ..masks import frame_scores
from ..oracle import NotCovered
from ..video_objects import ObjectScores, object_scores, sequence_statistics


def figures(reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """The figures of one reference; those of objects in the order in which it lists them."""
    if reference == "ours.bi_fore":
        return _data_set(inputs["queries"]) if "queries" in inputs else _question(inputs["gt"], inputs["pred"])
    truth, predicted, void = inputs["gt"], inputs["pred"], inputs.get("void")
    if reference in ("davis.semi", "davis.unsup"):
        return _several(reference, truth, predicted, void, inputs)
    if reference not in ("davis.J", "davis.F", "davis.stats"):
        raise NotCovered(f"no such reference: {reference}")
    j, f = frame_scores(truth, predicted, void)
    if reference == "davis.stats":
        return _statistics(j, f)
    return j if reference == "davis.J" else f


def _statistics(j: Any, f: Any) -> dict[str, Any]:
    return {name: sequence_statistics(v, byte_edges=True) for name, v in (("J", j), ("F", f))}


def _several(reference: str, truth: Any, predicted: Any, void: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    if reference == "davis.semi":
        scores = object_scores(truth, predicted, void)
        order = list(range(len(scores.j)))
    else:
        scores = object_scores(truth, predicted[inputs.get("proposal_permutation", ...)], void, task="unsupervised")
        order = list(np.argsort(scores.proposals, kind="stable"))
    return _listed(scores, order)


def _listed(scores: ObjectScores, order: list[int]) -> dict[str, Any]:
    j, f = scores.j[order], scores.f[order]
    return {
        "J": j,
        "F": f,
        "per_object_stats": [_statistics(*pair) for pair in zip(j, f, strict=True)],
        "JF_mean": (j.mean(axis=1).mean() + f.mean(axis=1).mean()) / 2,
        "note": "proposals are pred[perm]; output row order follows the assignment's proposal order",
    }


def _question(truth: Any, predicted: Any) -> dict[str, Any]:
    ours: dict[str, Any] = {}
    for key, span in (("span", True), ("frames", False)):
        found = foreground_scores(truth, predicted, span=span)
        ours[key] = {"J_p": found.j_p, "F_p": found.f_p, "J_g": found.j_g, "F_g": found.f_g,
                     "JF_bi_fore": found.bi_fore, "loc_p": found.span_p, "loc_g": found.span_g,
                     "tIoU_frames_inclusive": found.tiou}  # fmt: skip
        ours["standard_JF"] = (found.j + found.f) / 2
    return ours


def _data_set(questions: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    truth, told = ({name: q[side] for name, q in questions.items()} for side in ("gt", "pred"))
    names = {"J_p": "j_p", "F_p": "f_p", "J_g": "j_g", "F_g": "f_g", "dataset_of_means": "jf_bi_fore",
             "mean_of_queries": "jf_bi_fore_question_mean"}  # fmt: skip
    ours: dict[str, Any] = {}
    for key, convention in (("span", "strict"), ("frames", "frames")):
        figures = bidirectional_foreground(truth, told, convention=convention).figures()
        ours[key] = {theirs: (figures[name] or 0.0) / 100 for theirs, name in names.items()}
        ours["standard_JF_mean"] = (figures["jf"] or 0.0) / 100
    return ours
