"""VideoBatch: what the loader makes and every model family takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class VideoBatch:
    """B videos with their questions, padded to S tokens, and the frames of all of them in one tensor.

    ``input_ids`` (B, S) int64 in the id space of ``timeexpert.tokenization``; ``attention_mask`` (B, S) bool;
    ``labels`` (B, S) int64, -100 outside the answers; ``pixel_values`` (N, 3, H, W) uint8, or float in [-1, 1]:
    frames of row 0, then row 1, ... as the vision placeholders occur. Several questions about one video share its
    frames: ``turns`` (B, S) int64 is 0 for the video, 1, 2, ... for each question with its answer, -1 for padding,
    and ``position_ids`` (B, S) start again behind the video for each, so that packing changes no result.
    ``sample_ids``: the questions inside. ``dropped``: (sample or video, reason) of what could not be read.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    pixel_values: Tensor
    position_ids: Tensor | None = None
    turns: Tensor | None = None
    sample_ids: tuple[str, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()

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
        # padding (-1) sees padding, so that no row of the mask is empty
        return causal & ((seen == 0) | (seen == asking))
