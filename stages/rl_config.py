"""Settings of one phase of reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from timeexpert.config import ConfigError
from timeexpert.data.endpoint import EndpointConfig
from timeexpert.data.records import SEGMENT_TASKS
from timeexpert.errors import UserError
from timeexpert.evaluation.segment_rewards import (
    NEEDS_THINKING,
    REWARDS,
    RewardConvention,
    reward_convention,
)

QUESTION = "{question}"


@dataclass(frozen=True, kw_only=True)
class RolloutServerConfig:
    """A vLLM server that draws the answers (docs/rl.md says how to start it).

    ``url`` ends in ``/v1``; ``model``: its name there. ``weights``: the folder that the server loads; the newest
    weights are written into it before each rollout, and the server is told to read them again. ``key_env``: the
    environment variable with the API key. ``timeout_s``: for one request. ``concurrency``: questions at a time.
    """

    url: str
    model: str
    weights: str
    key_env: str | None = None
    timeout_s: float = 600.0
    concurrency: int = 8

    def __post_init__(self) -> None:
        if not self.url.rstrip("/").endswith("/v1"):
            raise ConfigError(f"url ({self.url!r}) must end in /v1, for example http://localhost:8000/v1.")
        for name in ("model", "weights"):
            if not getattr(self, name).strip():
                raise ConfigError(f"{name} is empty. Give the name and the folder that the server was started with.")
        try:
            _ = self.endpoint
        except UserError as error:
            raise ConfigError(str(error).replace("base_url", "url")) from None

    @property
    def endpoint(self) -> EndpointConfig:
        """How it is asked. Raises ``UserError`` for an address or a number that cannot be."""
        return EndpointConfig(
            base_url=self.url,
            model=self.model,
            key_env=self.key_env,
            timeout_s=self.timeout_s,
            concurrency=self.concurrency,
        )

    def check_weights(self, where: str, pretrained: str | None) -> None:
        """Raises :class:`ConfigError` where ``weights`` is the folder that the run starts from: it is written over."""
        if pretrained is not None and Path(pretrained).resolve() == Path(self.weights).resolve():
            raise ConfigError(
                f"{where}.rl.rollouts.weights ({self.weights}) is model.pretrained, and would be written over by what "
                "is trained. Copy that folder, and start the server from the copy."
            )


def _default_rewards() -> dict[str, float]:
    return {"format": 1.0, "global_matching": 1.0, "local_matching": 1.0}


@dataclass(frozen=True, kw_only=True)
class RlConfig:
    """One phase: GRPO on answers that the model draws itself. The reference is the model that the phase starts from.

    ``rewards``: weights by name (docs/rl.md); ``convention``, ``overlap``, ``local``: how they are computed.
    ``answers``: what rewards read, an answer's ``events`` or, of a family that answers in words, the text
    ``<think>...</think><answer>1.50-3.20</answer>`` (``thinking``). ``grammar``: answers keep to the family's grammar;
    without it any token may come, and an answer that does not parse has no form. ``prompt``: what is asked, with the
    question in place of ``{question}``. ``group_size`` answers of each question are drawn at ``temperature`` within
    ``max_new_tokens`` and ``max_events``, here or by the server of ``rollouts``. ``beta``: weight of the KL to the
    reference; ``epsilon``: clip of the ratio (None: none). ``updates_per_rollout``: optimizer steps on the same
    answers.
    """

    rewards: dict[str, float] = field(default_factory=_default_rewards)
    convention: Literal["strict", "compat"] = "strict"
    overlap: Literal["f1", "iou"] = "f1"
    local: Literal["sequential", "optimal"] = "sequential"
    answers: Literal["events", "thinking"] = "events"
    grammar: bool = True
    prompt: str = QUESTION
    group_size: int = 8
    temperature: float = 0.9
    beta: float = 0.04
    epsilon: float | None = None
    updates_per_rollout: int = 1
    max_new_tokens: int = 512
    max_events: int = 64
    rollouts: RolloutServerConfig | None = None

    def __post_init__(self) -> None:
        if not self.rewards or not any(self.rewards.values()):
            raise ConfigError("rewards is empty, or all weights are 0; name at least one with a weight.")
        for name in self.rewards:
            if name not in REWARDS:
                raise ConfigError(f"rewards: {name!r} is not one of {', '.join(REWARDS)}.")
            if name in NEEDS_THINKING and self.answers == "events":
                raise ConfigError(
                    f"rewards: {name!r} reads an answer's thinking, and answers is 'events'. Use 'format' or, for a "
                    "family that answers in words, set answers to 'thinking'."
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

    def check_tasks(self, tasks: tuple[str, ...], questions: dict[str, int]) -> None:
        """Raises :class:`ConfigError` for questions without segments, and for several behind one video.

        ``questions``: their numbers per video, by the field that says it.
        """
        others = [task for task in tasks if task not in SEGMENT_TASKS]
        if others:
            raise ConfigError(
                f"tasks: {', '.join(others)} cannot be rewarded: their answers are no segments. Set tasks to some of "
                f"{', '.join(SEGMENT_TASKS)}."
            )
        for name, count in questions.items():
            if count != 1:
                raise ConfigError(
                    f"{name} ({count}) must be 1 in an rl stage: a row holds the answers to one question. Raise "
                    "batch_videos."
                )

    def check_family(self, where: str, family: str, in_words: bool) -> None:
        """Raises :class:`ConfigError` for what a family's answers do not have; ``in_words``: they are free text."""
        if in_words:
            return
        for name, asked in (("answers ('thinking')", self.answers == "thinking"), ("rollouts", self.rollouts)):
            if asked:
                raise ConfigError(
                    f"{where}.rl.{name} is for families that answer in words; models of model.family {family!r} "
                    "answer in events. Leave it out."
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
