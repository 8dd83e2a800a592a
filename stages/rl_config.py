"""Settings of one phase of reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from timeexpert.config import ConfigError
from timeexpert.data.records import SEGMENT_TASKS
from timeexpert.evaluation.segment_rewards import (
    NEEDS_THINKING,
    REWARDS,
    RewardConvention,
    reward_convention,
)

QUESTION = "{question}"


def _default_rewards() -> dict[str, float]:
    return {"format": 1.0, "global_matching": 1.0, "local_matching": 1.0}


@dataclass(frozen=True, kw_only=True)
class RlConfig:
    """One phase: GRPO on answers that the model draws itself. The reference is the model that the phase starts from.

    ``rewards``: weights by name (docs/rl.md); ``convention``, ``overlap``, ``local``: how they are computed.
    ``prompt``: what is asked, with the question in place of ``{question}``. ``group_size`` answers of each question are
    drawn at ``temperature`` within ``max_new_tokens`` and ``max_events``. ``beta``: weight of the KL to the reference;
    ``epsilon``: clip of the ratio (None: none). ``updates_per_rollout``: optimizer steps on the same answers.
    """

    rewards: dict[str, float] = field(default_factory=_default_rewards)
    convention: Literal["strict", "compat"] = "strict"
    overlap: Literal["f1", "iou"] = "f1"
    local: Literal["sequential", "optimal"] = "sequential"
    prompt: str = QUESTION
    group_size: int = 8
    temperature: float = 0.9
    beta: float = 0.04
    epsilon: float | None = None
    updates_per_rollout: int = 1
    max_new_tokens: int = 512
    max_events: int = 64

    def __post_init__(self) -> None:
        if not self.rewards or not any(self.rewards.values()):
            raise ConfigError("rewards is empty, or all weights are 0; name at least one with a weight.")
        for name in self.rewards:
            if name not in REWARDS:
                raise ConfigError(f"rewards: {name!r} is not one of {', '.join(REWARDS)}.")
            if name in NEEDS_THINKING:
                raise ConfigError(
                    f"rewards: {name!r} reads an answer's thinking, and the answers of this model are events. "
                    "Use 'format'; with TRL's trainer and a text model all rewards can be used (docs/rl.md)."
                )
        if self.prompt.count(QUESTION) != 1:
            raise ConfigError(f"prompt ({self.prompt!r}) must hold {QUESTION} once: the question goes there.")
        if self.group_size < 2:
            raise ConfigError(f"group_size ({self.group_size}) must be 2 or more: answers are compared in it.")
        if self.temperature <= 0:
            raise ConfigError(f"temperature ({self.temperature}) must be positive: at 0 all answers are the same.")
        if self.beta < 0:
            raise ConfigError(f"beta ({self.beta}) must be 0 or more.")
        if self.epsilon is not None and not 0 < self.epsilon < 1:
            raise ConfigError(f"epsilon ({self.epsilon}) must be between 0 and 1, or null.")
        for name in ("updates_per_rollout", "max_new_tokens", "max_events"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} ({getattr(self, name)}) must be 1 or more.")

    @property
    def rules(self) -> RewardConvention:
        """How segments are compared."""
        return reward_convention(self.convention, overlap=self.overlap, local=self.local)

    def check_tasks(self, tasks: tuple[str, ...], questions_per_video: int) -> None:
        """Raises :class:`ConfigError` for questions without segments, and for several behind one video."""
        others = [task for task in tasks if task not in SEGMENT_TASKS]
        if others:
            raise ConfigError(
                f"tasks: {', '.join(others)} cannot be rewarded: their answers are no segments. Set tasks to some of "
                f"{', '.join(SEGMENT_TASKS)}."
            )
        if questions_per_video != 1:
            raise ConfigError(
                f"questions_per_video ({questions_per_video}) must be 1 in an rl stage: a row holds the answers to one "
                "question. Raise batch_videos."
            )

    def check_run(self, where: str, steps: int, shortest: int, checkpoint_every: int) -> None:
        """Raises :class:`ConfigError` where an event does not fit into an answer (``shortest``: its tokens), and where
        checkpoints would fall between two updates on the same answers."""
        if self.max_new_tokens < shortest:
            raise ConfigError(
                f"{where}.rl.max_new_tokens ({self.max_new_tokens}) must be {shortest} or more: that many tokens take "
                "an event of two times."
            )
        if checkpoint_every % self.updates_per_rollout and checkpoint_every < steps:
            raise ConfigError(
                f"train.checkpoint_every ({checkpoint_every}) is not divisible by {where}.rl.updates_per_rollout "
                f"({self.updates_per_rollout}): checkpoints stand between rollouts. Set it to "
                f"{-(-checkpoint_every // self.updates_per_rollout) * self.updates_per_rollout}."
            )
