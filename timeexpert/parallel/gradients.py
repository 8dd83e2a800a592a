"""Gradients over ranks: the sum of those that every rank computes for its own data, and the norm of all."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate


@torch.no_grad()
def sum_replicated_gradients(parameters: list[nn.Parameter], sum_over_ranks: Callable[[list[Tensor]], None]) -> None:
    """Sum the gradients of parameters that every rank holds whole (the gates); FSDP2 has summed the others.

    A parameter that no rank has a gradient of keeps none, so that optimizers leave it alone as in one process.
    """
    own = [p for p in parameters if not isinstance(p, DTensor)]
    if not own:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
    have = torch.tensor([float(p.grad is not None) for p in own], device=own[0].device, dtype=own[0].dtype)
    sum_over_ranks([have, *gradients])
    for parameter, gradient, count in zip(own, gradients, have.tolist(), strict=True):
        parameter.grad = gradient if count else None


@torch.no_grad()
def clip_sharded_grad_norm_(parameters: list[nn.Parameter], most: float, ranks: int) -> float:
    """``torch.nn.utils.clip_grad_norm_`` where gradients lie on several meshes, which that does not take.

    Each rank adds the squares of what it holds, divided by the number of ranks that hold the same.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    shares = [_blocks(g) / ranks for g in gradients]
    squares = torch.stack([torch.linalg.vector_norm(g.float()).double().square() for g in local])
    total = (squares * torch.tensor(shares, dtype=torch.float64, device=squares.device)).sum()
    dist.all_reduce(total)
    norm = float(total.sqrt())
    factor = most / (norm + 1e-6)
    if factor < 1:
        for gradient in local:
            gradient.mul_(factor)
    return norm


def _blocks(gradient: Tensor) -> int:
    """Into how many different blocks a tensor is cut; 1 where every rank holds all of it."""
    if not isinstance(gradient, DTensor):
        return 1
    sizes = gradient.device_mesh.shape
    return prod(
        size for size, placement in zip(sizes, gradient.placements, strict=True) if not isinstance(placement, Replicate)
    )
