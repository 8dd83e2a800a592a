"""Rewards in the shape that TRL's trainers call: ``reward(completions, solution=..., **columns) -> list[float]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from timeexpert.config import ConfigError
from timeexpert.evaluation.segment_rewards import REWARDS, answer_of_text, reward_convention
from timeexpert.evaluation.tiou import Segment

RewardFunction = Callable[..., list[float]]


def reward_function(name: str, convention: str = "strict", **changes: Any) -> RewardFunction:
    """A reward of :data:`REWARDS` for ``GRPOTrainer(reward_funcs=[...])``, under its own name in TRL's logs.

    It reads completions as text or as chat messages, and the data set's column ``solution``: a list of ``[start, end]``
    in seconds per question. ``changes``: switches of :class:`RewardConvention`. Raises :class:`ConfigError`, also for a
    solution that is none; ``compat`` takes segments without length, as MUSEG's code does.
    """
    if name not in REWARDS:
        raise ConfigError(f"reward {name!r} is not one of {', '.join(REWARDS)}.")
    rules, compute = reward_convention(convention, **changes), REWARDS[name]

    def reward(
        completions: Sequence[Any], solution: Sequence[Sequence[Sequence[float]]] | None = None, **columns: Any
    ) -> list[float]:
        if solution is None:
            raise ConfigError(
                f"reward {name!r} needs the column 'solution' of the data set: a list of [start, end] in seconds per "
                f"question. There are {', '.join(sorted(columns)) or 'no columns'}."
            )
        truths = [_truth(segments, may_be_void=convention == "compat") for segments in solution]
        texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
        return [compute(answer_of_text(t, rules), truth, rules) for t, truth in zip(texts, truths, strict=True)]

    reward.__name__ = name
    return reward


def _truth(segments: Any, *, may_be_void: bool) -> list[Segment]:
    try:
        truth = [(float(start_s), float(end_s)) for start_s, end_s in segments]
    except (TypeError, ValueError):
        truth = []
    if not truth or not all(isfinite(a) and isfinite(b) and (a < b or may_be_void) for a, b in truth):
        raise ConfigError(
            f"solution ({segments!r}) must be a list of [start, end] in seconds, each end after its start. Leave the "
            "row out of the data set: timeexpert data convert museg names such rows."
        )
    return truth
