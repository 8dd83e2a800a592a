"""fujiso/SODA and its fork in TRACE, and the ActivityNet Captions evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from timeexpert.evaluation import captioning, soda
from timeexpert.evaluation.caption_events import TimedCaptions
from timeexpert.evaluation.errors import MISSING
from timeexpert.evaluation.meteor import Meteor
from timeexpert.evaluation.oracle import NotCovered

from .meteor_process import shared_meteor

ANET = {
    "meteor": "METEOR",
    "cider": "CIDEr",
    "rouge_l": "Rouge-L",
    "recall": "Recall",
    "precision": "Precision",
    "f1": "F1",
}
ANET |= {f"bleu_{k}": f"Bleu_{k}" for k in (1, 2, 3, 4)}
ANET |= {f"{name}_{t}": f"{name.title()}@{t}" for t in captioning.THRESHOLDS for name in ("recall", "precision", "f1")}


def figures(reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """Fractions (CIDEr of 10)."""
    without = ".Cider." in reference or reference.startswith("soda_d")
    return figures_with(None if without else shared_meteor(), reference, inputs)


def figures_with(meteor: Meteor | None, reference: str, inputs: Mapping[str, Any]) -> Any:
    """As :func:`figures`; without ``meteor`` what needs it is left out."""
    names = list(dict.fromkeys(name for truth in inputs["references"] for name in truth))
    truth = [
        [TimedCaptions.of(r[name]["timestamps"], r[name]["sentences"]) for r in inputs["references"] if name in r]
        for name in names
    ]
    told: list[Any] = [MISSING] * len(names)
    for i, name in enumerate(names):
        if name in inputs["predictions"]:
            events = inputs["predictions"][name]
            told[i] = TimedCaptions.of([e["timestamp"] for e in events], [e["sentence"] for e in events])
    if reference == "eval_dvc_anet":
        said = captioning.dense_captioning(truth, told, items=names, convention="anet", meteor=meteor).figures()
        return {theirs: (said[ours] or 0.0) / 100 for ours, theirs in ANET.items() if ours in said}
    words = reference.split(".")
    if reference == "trace_fork.soda_c.concatenated":
        words = ["soda_c", "Meteor", "concatenated"]
    if len(words) != 3 or words[0] not in ("soda_a", "soda_b", "soda_c", "soda_d"):
        raise NotCovered(f"no such figure: {reference}")
    if meteor is None and words[1] == "Meteor" and words[0] != "soda_d":
        return {}
    variant = cast(soda.Variant, words[0][-1])
    scorer = cast(Literal["meteor", "cider"], words[1].lower())
    scores = soda.soda(
        truth,
        told,
        variant=variant,
        scorer=scorer,
        items=names,
        convention="soda",
        references="best" if words[2] == "multi_reference" else "concatenated",
        meteor=meteor,
    )
    said = scores.figures()
    keys = {"precision": f"soda_{variant}_precision", "recall": f"soda_{variant}_recall", "f1": f"soda_{variant}"}
    return {theirs: (said[ours] or 0.0) / 100 for theirs, ours in keys.items()}
