"""Losses of masks: binary cross-entropy and Dice, at sampled points or at every pixel (FACTS D3).

M masks of H x W logits, P points.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor


def mask_losses(
    logits: Tensor, truth: Tensor, *, points: int | None, oversample: float = 3.0, importance: float = 0.75
) -> tuple[Tensor, Tensor]:
    """Sums over masks of the binary cross-entropy (mean over points) and of the Dice loss; both in float32.

    ``logits`` (M, H, W); ``truth`` (M, H, W), 0 to 1. ``points`` None: every pixel.
    """
    logits, truth = logits.float(), truth.float()
    if points is not None:
        with torch.no_grad():
            where = uncertain_points(logits, points, oversample, importance)
            truth = at_points(truth, where)
        logits = at_points(logits, where)
    else:
        logits, truth = logits.flatten(1), truth.flatten(1)
    bce = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()
    return bce, dice_loss(logits, truth).sum()


def dice_loss(logits: Tensor, truth: Tensor, eps: float = 1.0) -> Tensor:
    """1 - (2 |A and B| + eps) / (|A| + |B| + eps) of each mask, (M,), from logits (M, P) and truth (M, P)."""
    probability = logits.sigmoid()
    both = (probability * truth).sum(1)
    return 1 - (2 * both + eps) / (probability.sum(1) + truth.sum(1) + eps)


def at_points(masks: Tensor, where: Tensor) -> Tensor:
    """Values (M, P) of masks (M, H, W) at points (M, P, 2), x and y from 0 to 1, bilinear between pixel centres."""
    grid = 2 * where[:, :, None] - 1
    return functional.grid_sample(masks[:, None], grid, padding_mode="border", align_corners=False)[:, 0, :, 0]


def uncertain_points(logits: Tensor, points: int, oversample: float, importance: float) -> Tensor:
    """Points (M, P, 2), x and y from 0 to 1 (PointRend, section 3.1): a share ``importance`` is taken, out of
    ``oversample`` times ``points`` random ones, where the logits are nearest to 0; the others are random."""
    count = len(logits)
    drawn = torch.rand(count, max(points, int(points * oversample)), 2, device=logits.device)
    unsure = -at_points(logits, drawn).abs()
    kept = int(points * importance)
    best = unsure.topk(kept, dim=1).indices
    chosen = drawn.gather(1, best[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, torch.rand(count, points - kept, 2, device=logits.device)], 1)
