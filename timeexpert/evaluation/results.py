"""What an evaluation states: figures with intervals, counts, conventions and scorers, as JSON; and single cases."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from timeexpert import __version__
from timeexpert.data.records import Sample

from .records import Told
from .scores import Scores, intervals, paired_differences

LEVEL, RESAMPLES, SEED = 0.95, 1000, 0


@dataclass(frozen=True)
class Scored:
    """One task with its questions, its answers (``None``: missing) and what the metric says about them. Tasks of files
    that are no samples have neither."""

    samples: Sequence[Sample]
    told: Sequence[Told | None]
    scores: Scores


def to_json(scored: Mapping[str, Scored], *, with_intervals: bool = True) -> dict[str, Any]:
    """``{"tasks": {name: {figures, intervals, counts, convention, policies, scorers, notes}}, "versions": ...}``."""
    tasks = {}
    for name, one in scored.items():
        scores = one.scores
        tasks[name] = {
            "figures": scores.figures(),
            "intervals": _intervals(scores) if with_intervals else None,
            "counts": dict(scores.counts),
            "convention": scores.convention,
            "policies": dict(scores.policies),
            "scorers": dict(scores.scorers),
            "notes": list(scores.notes),
        }
    document: dict[str, Any] = {"format": 1, "tasks": tasks, "versions": versions()}
    if with_intervals:
        document["interval"] = {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED}
    return document


def differences(a: Mapping[str, Scored], b: Mapping[str, Scored]) -> dict[str, Any]:
    """Per task the paired differences ``b`` minus ``a`` of every figure, with their intervals."""
    return {
        name: paired_differences(a[name].scores, b[name].scores, level=LEVEL, samples=RESAMPLES, seed=SEED)
        for name in a
        if name in b
    }


def versions() -> dict[str, str]:
    """What computed the figures."""
    return {"timeexpert": __version__, "numpy": np.__version__, "python": platform.python_version()}


def _intervals(scores: Scores) -> dict[str, list[float] | None]:
    found = intervals(scores, level=LEVEL, samples=RESAMPLES, seed=SEED)
    return {name: None if interval is None else list(interval) for name, interval in found.items()}


@dataclass(frozen=True)
class Case:
    """One question with its truth, its answer and what it scored (``value``, of the figure ``figure``)."""

    sample: Sample
    told: Told | None
    figure: str
    value: float


def worst_and_best(scored: Scored, count: int) -> tuple[list[Case], list[Case]]:
    """The ``count`` questions that scored lowest and highest; of equals, the first. No question is in both."""
    if not scored.scores.per_item or not scored.samples:
        return [], []
    figure, values = next(iter(scored.scores.per_item.items()))
    numbers = [float(v) for v in values]
    known = [i for i, v in enumerate(numbers) if not math.isnan(v)]
    cases = {i: Case(scored.samples[i], scored.told[i], figure, numbers[i]) for i in known}
    order = sorted(known, key=lambda i: numbers[i])
    worst = order[: min(count, len(order))]
    best = sorted(order[len(worst) :], key=lambda i: -numbers[i])[:count]
    return [cases[i] for i in worst], [cases[i] for i in best]
