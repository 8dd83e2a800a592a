"""Rows of stacked tensors (one row per expert slot), whether this process holds all of them or a block.

With more than one process, experts and their optimizer state are DTensors: each rank holds a contiguous block.
Reading a row is a collective, which every rank calls with the same arguments; writing is local.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate


def block(tensor: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
    """What this rank holds of ``tensor``, and where that lies in the whole."""
    if not isinstance(tensor, DTensor):
        return tensor, tuple(slice(0, size) for size in tensor.shape)
    # the one place where torch says it, and what its own checkpoints use
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tensor.to_local(), tuple(slice(begin, begin + size) for begin, size in zip(offset, shape, strict=True))


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """The tensor with every row; a collective for a DTensor.

    Not ``full_tensor``: rows cut first by expert group, then within it, cost it two collectives and a warning each.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    local, where = block(tensor)
    full = local.new_zeros(tensor.shape)
    if not is_copy(tensor):
        full[where] = local
    dist.all_reduce(full)  # each element is on one rank; the others add zeros
    return full


def joined(local: Tensor, like: Tensor) -> Tensor:
    """The tensor laid out as ``like`` is, of which this rank holds ``local``."""
    if not isinstance(like, DTensor):
        return local
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


@torch.no_grad()
def read_row(tensor: Tensor, index: int) -> Tensor:
    """Row ``index`` on every rank."""
    if not isinstance(tensor, DTensor):
        return tensor[index]
    local, (rows, *rest) = block(tensor)
    row = local.new_zeros(tensor.shape[1:])
    if rows.start <= index < rows.stop and not is_copy(tensor):
        row[tuple(rest)] = local[index - rows.start]
    dist.all_reduce(row)  # one rank, or each for its columns, has it; the others add zeros
    return row


@torch.no_grad()
def write_row(tensor: Tensor, index: int, row: Tensor | float) -> None:
    """Set row ``index`` to ``row`` (whole, the same on every rank)."""
    local, (rows, *rest) = block(tensor)
    if rows.start <= index < rows.stop:
        local[index - rows.start] = row[tuple(rest)] if isinstance(row, Tensor) else row


@torch.no_grad()
def scale_rows(tensor: Tensor, factor_E: Tensor) -> None:
    """Multiply each row by its factor."""
    local, (rows, *rest) = block(tensor)
    local.mul_(factor_E[rows].reshape(-1, *[1] * len(rest)))


def is_copy(tensor: DTensor) -> bool:
    """Whether another rank is the first to hold this block: HSDP keeps copies."""
    place = tensor.device_mesh.get_coordinate()
    assert place is not None
    return any(isinstance(p, Replicate) and at > 0 for p, at in zip(tensor.placements, place, strict=True))
