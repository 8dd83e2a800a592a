"""VideoBatch: what the loader makes and every model family takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from timeexpert.errors import UserError

Frames = np.ndarray | Tensor  # of one clip: pixels uint8 [n, H, W, 3], or a vision tower's features of them [n, P, C]


def join_frames(clips: Sequence[Frames]) -> Tensor:
    """The frames of several clips as a model takes them: (N, 3, H, W) uint8, or features (N, P, C).

    Raises :class:`UserError` where there are both.
    """
    pixels = [clip for clip in clips if isinstance(clip, np.ndarray)]
    if not pixels:
        return torch.cat(list(clips))  # type: ignore[arg-type]
    if len(pixels) < len(clips):
        raise UserError("a batch holds frames and features. Mix shard folders of one kind only.")
    return torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2).contiguous()


def pixels_of(frames: Frames | None) -> np.ndarray:
    """A clip's frames as uint8 (F, H, W, 3), also where they come from a batch. Raises ``UserError`` for features."""
    if isinstance(frames, Tensor) and frames.ndim == 4:
        return frames.permute(0, 2, 3, 1).cpu().numpy()
    if not isinstance(frames, np.ndarray):
        raise UserError("this model takes frames, and the shard folder holds features of them.")
    return frames


@dataclass(frozen=True)
class VideoBatch:
    """B videos with their questions, padded to S tokens, and the frames of all of them in one tensor.

    ``input_ids`` (B, S) int64 in the id space of ``timeexpert.tokenization``; ``attention_mask`` (B, S) bool;
    ``labels`` (B, S) int64, -100 outside the answers; ``pixel_values`` (N, 3, H, W) uint8, or float in [-1, 1], or
    (N, P, C) features in their place: frames of row 0, then row 1, ... as the vision placeholders occur. Several
    questions about one video share its frames: ``turns`` (B, S) int64 is 0 for the video, 1, 2, ... for each question
    with its answer, -1 for padding, and ``position_ids`` (B, S) start again behind the video for each, so that packing
    changes no result.
    ``times_s``: of the frames of each row, in seconds, as the model reads them. ``sample_ids``: the questions inside.
    ``datasets``: of each row, the place of its data set in the stage's mix.
    ``dropped``: (sample or video, reason) of what could not be read.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    pixel_values: Tensor
    position_ids: Tensor | None = None
    turns: Tensor | None = None
    times_s: tuple[tuple[float, ...], ...] = ()
    sample_ids: tuple[str, ...] = ()
    datasets: tuple[int, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()

    def to(self, device: torch.device) -> Self:
        """The same batch on ``device``, with the tensors that a family's own kind of batch adds."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {n: v for n, v in values.items() if isinstance(v, Tensor)}
        moved: dict[str, Any] = {n: t.to(device, non_blocking=True) for n, t in tensors.items()}
        return replace(self, **moved)

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


def join_batches(batches: Sequence[VideoBatch], pad_id: int) -> VideoBatch:
    """The rows of several batches in one, padded to the longest; every row attends as it did in its own batch."""
    if len(batches) == 1:
        return batches[0]
    size = max(batch.input_ids.shape[1] for batch in batches)

    def join(tensors: list[Tensor], fill: int) -> Tensor:
        return torch.cat([F.pad(t, (0, size - t.shape[1]), value=fill) for t in tensors])

    packed = any(b.turns is not None for b in batches)
    # a row without turns is one question behind its video, which sees all that comes before
    turns = [b.attention_mask.long() - 1 if b.turns is None else b.turns for b in batches]
    counted = [torch.arange(b.input_ids.shape[1], device=b.input_ids.device).expand_as(b.input_ids) for b in batches]
    given = [c if b.position_ids is None else b.position_ids for b, c in zip(batches, counted, strict=True)]
    return VideoBatch(
        input_ids=join([b.input_ids for b in batches], pad_id),
        attention_mask=join([b.attention_mask for b in batches], False),
        labels=join([b.labels for b in batches], -100),
        pixel_values=torch.cat([b.pixel_values for b in batches]),
        position_ids=join(given, 0) if packed else None,
        turns=join(turns, -1) if packed else None,
        times_s=tuple(t for b in batches for t in b.times_s),
        sample_ids=tuple(i for b in batches for i in b.sample_ids),
        datasets=tuple(i for b in batches for i in b.datasets),
        dropped=tuple(d for b in batches for d in b.dropped),
    )
