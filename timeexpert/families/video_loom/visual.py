"""Slow and fast tokens of frames (VideoLoom, equation 4). F frames, G x G tokens of a frame, D width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as functional
from torch import Tensor

from .settings import Pooling


def pool_tokens(tokens: Tensor, grid: int, factor: int, how: Pooling) -> Tensor:
    """(F, G * G, D) -> (F, (G / factor) ** 2, D): means of factor x factor tokens, every factor-th, or bilinear."""
    maps = tokens.unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
    if how == "average":
        maps = functional.avg_pool2d(maps, factor)
    elif how == "subsample":
        maps = maps[:, :, ::factor, ::factor]
    else:
        size = (grid // factor, grid // factor)
        maps = functional.interpolate(maps, size, mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2)


def spread_keyframes(num_frames: int, keyframes: int) -> list[int]:
    """The middle frames of ``keyframes`` equal parts, for inference; a frame comes again where there are too few."""
    return [(2 * k + 1) * num_frames // (2 * keyframes) for k in range(keyframes)]


def random_keyframes(num_frames: int, keyframes: int, rng: np.random.Generator) -> list[int]:
    """Random frames in order, for training; some twice only where there are too few (Sa2VA)."""
    drawn: Sequence[int] = rng.choice(num_frames, keyframes, replace=num_frames < keyframes).tolist()
    return sorted(drawn)
