"""What a stage optimises: the loss of a micro-batch, and the steps that it is taken over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from timeexpert.data.batch import VideoBatch
from timeexpert.model.protocol import ModelOutput, VideoLLM
from timeexpert.timing import Stopwatch

from .feed import Feed, Step


class StepFeed(Protocol):
    """Where steps come from. ``figures``: what is known of the last step before its loss. ``at_boundary``: whether
    ``state`` alone says how to go on. ``pieces``: what times the parts of making a step."""

    @property
    def figures(self) -> dict[str, float]: ...
    @property
    def at_boundary(self) -> bool: ...
    @property
    def state(self) -> dict[str, Any]: ...
    @property
    def reading(self) -> Stopwatch: ...
    @property
    def pieces(self) -> dict[str, Stopwatch]: ...
    def take(self, count: int) -> Step: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class Objective(Protocol):
    """``feed`` is given the global step of the next update. ``counts_experts``: whether routing moves rates and
    thresholds, and experts come and go. ``forward_methods``: of the model, that run it."""

    @property
    def counts_experts(self) -> bool: ...
    @property
    def forward_methods(self) -> tuple[str, ...]: ...
    def feed(self, feed: Feed, step_of: Callable[[], int]) -> StepFeed: ...
    def loss(self, batch: Any, counts: dict[str, float]) -> ModelOutput: ...


class Supervised:
    """The cross-entropies of the answers' tokens and, where there are gates, their losses: every stage but rl."""

    def __init__(self, model: VideoLLM) -> None:
        self.model = model
        self.counts_experts = bool(model.gates)
        self.forward_methods = ("training_step", "calibrate_gates") if model.gates else ("training_step",)

    def feed(self, feed: Feed, step_of: Callable[[], int]) -> StepFeed:
        """Batches as they are loaded."""
        return feed

    def loss(self, batch: VideoBatch, counts: dict[str, float]) -> ModelOutput:
        """See :meth:`VideoLLM.training_step`."""
        return self.model.training_step(batch, counts)
