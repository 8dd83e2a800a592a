"""What every family of video LLMs offers: the same words for stages, prediction, evaluation and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from timeexpert.data.batch import VideoBatch
from timeexpert.moe import Routing


@dataclass(frozen=True)
class ModelOutput:
    """``losses``: each term, already divided by the given counts. ``loss``: their sum. ``routings``: one
    :class:`Routing` per layer. ``figures``: what is told beside the losses, shares of the step like them."""

    loss: Tensor
    losses: dict[str, Tensor]
    routings: list[Routing] = field(default_factory=list)
    figures: dict[str, Tensor] = field(default_factory=dict)


class VideoLLM(Protocol):
    """A trainable video LLM: what the stages, the predictor and the checkpoints need of a family."""

    def training_step(self, batch: VideoBatch, counts: dict[str, float]) -> ModelOutput:
        """Loss of one micro-batch; ``counts`` holds each stream's number of labels over the optimizer step."""
        ...

    def label_counts(self, batch: VideoBatch) -> dict[str, float]:
        """Number of labels of each stream in one micro-batch."""
        ...
