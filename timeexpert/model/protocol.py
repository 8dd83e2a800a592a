"""What goes into a video LLM and what comes out, the same for every family."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from timeexpert.moe import Routing


@dataclass(frozen=True)
class VideoBatch:
    """B questions, padded to S tokens, with the frames of all of them in one tensor.

    ``input_ids`` (B, S) int64 in the id space of ``timeexpert.tokenization``; ``attention_mask`` (B, S) bool;
    ``labels`` (B, S) int64, -100 outside the answer; ``pixel_values`` (N, 3, H, W) float in [-1, 1] or uint8,
    frames of row 0, then row 1, ... as the vision placeholders occur. Several questions about one video share its
    frames: ``turns`` (B, S) int64 is 0 for the video, 1, 2, ... for each question with its answer (padding -1),
    and ``position_ids`` (B, S) start again behind the video for each. ``sample_ids``: which samples these are.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    pixel_values: Tensor
    position_ids: Tensor | None = None
    turns: Tensor | None = None
    sample_ids: tuple[str, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()  # (sample id, reason) of what could not be read

    def to(self, device: torch.device) -> VideoBatch:
        """The same batch on ``device``."""
        names = ("input_ids", "attention_mask", "labels", "pixel_values", "position_ids", "turns")
        tensors = {n: getattr(self, n) for n in names}
        return replace(self, **{n: t.to(device, non_blocking=True) for n, t in tensors.items() if t is not None})

    @property
    def decoder_mask(self) -> Tensor:
        """(B, S), or (B, 1, S, S) where questions share a video: each sees the video and itself, causally."""
        if self.turns is None:
            return self.attention_mask
        size = self.turns.shape[1]
        causal = torch.ones(size, size, dtype=torch.bool, device=self.turns.device).tril()
        seen, asking = self.turns[:, None, None, :], self.turns[:, None, :, None]
        # padding sees itself, so that no row of the mask is empty
        return causal & ((seen == 0) | (seen == asking))


@dataclass(frozen=True)
class ModelOutput:
    """``losses``: each term, already divided by the given counts. ``loss``: their sum. ``routings``: one
    :class:`Routing` per layer."""

    loss: Tensor
    losses: dict[str, Tensor]
    routings: list[Routing] = field(default_factory=list)


class VideoLLM(Protocol):
    """A trainable video LLM: what the stages, the predictor and the checkpoints need of a family."""

    def training_step(self, batch: VideoBatch, counts: dict[str, float]) -> ModelOutput:
        """Loss of one micro-batch; ``counts`` holds each stream's number of labels over the optimizer step."""
        ...

    def label_counts(self, batch: VideoBatch) -> dict[str, float]:
        """Number of labels of each stream in one micro-batch."""
        ...
