"""What every family of video LLMs offers: the same words for stages, prediction, evaluation and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from timeexpert.data.batch import VideoBatch
from timeexpert.moe import ExpertStatistics, Gate, MoELayer, Routing

from .tower import Tower


@dataclass(frozen=True)
class ModelOutput:
    """``losses``: each term, already divided by the given counts. ``loss``: their sum. ``routings``: one
    :class:`Routing` per layer. ``figures``: what is told beside the losses, shares of the step like them."""

    loss: Tensor
    losses: dict[str, Tensor]
    routings: list[Routing] = field(default_factory=list)
    figures: dict[str, Tensor] = field(default_factory=dict)


class VideoLLM(Protocol):
    """A trainable video LLM: what the stages, the predictor and the checkpoints need of a family's model.

    A transformers ``PreTrainedModel`` (``config``, ``save_pretrained``, ``from_pretrained``) that also writes answers
    as :class:`timeexpert.model.decoding.Decodes` says. A model without experts has no ``moe_layers``, no
    ``gates`` and no ``routings``; it needs neither ``token_types``, ``token_roles`` nor ``calibrate_gates``.
    """

    config: Any

    @property
    def features_tower(self) -> Tower | None:
        """The tower whose features may come in place of frames; None where there is none."""
        ...

    @property
    def moe_layers(self) -> list[MoELayer]:
        """The MoE layer of each decoder layer."""
        ...

    @property
    def gates(self) -> list[Gate]:
        """The gate of each MoE layer."""
        ...

    def statistics(self) -> ExpertStatistics:
        """A fresh tracker over the gates."""
        ...

    def sharding_units(self) -> list[nn.Module]:
        """What is gathered from other ranks one at a time."""
        ...

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute the decoder's activations in the backward pass instead of keeping them."""
        ...

    def training_step(self, batch: VideoBatch, counts: dict[str, float]) -> ModelOutput:
        """Loss of one micro-batch; ``counts`` holds each stream's number of labels over the optimizer step."""
        ...

    def label_logits(self, batch: VideoBatch) -> Tensor:
        """Logits (labels, V) from which each label of a batch is told, row by row, in their order: an rl stage's
        forward pass. A family without the kind ``rl`` may lack it."""
        ...

    def label_counts(self, batch: VideoBatch) -> dict[str, float]:
        """Number of labels of each stream in one micro-batch."""
        ...
