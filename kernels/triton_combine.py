"""Triton: each token's weighted sum of its rows, without atomic adds, and the gradients of rows and weights.

T tokens, P rows (pairs), D model dim.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _combine_kernel(
    rows, weight, pair, token_offsets, out, D, WEIGHTED: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr
):
    """out[t] = sum over the pairs p of token t of weight[p] * rows[p], in float32, in the order of the experts."""
    t = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    start, end = tl.load(token_offsets + t), tl.load(token_offsets + t + 1)
    acc = tl.zeros((BLOCK_D,), tl.float32)
    for first in range(start, end, BLOCK_K):  # several rows at once: one at a time would wait for each
        q = first + tl.arange(0, BLOCK_K)
        p = tl.load(pair + q, mask=q < end, other=0).to(tl.int64)
        inside = (q < end)[:, None] & (d < D)[None, :]
        part = tl.load(rows + p[:, None] * D + d[None, :], mask=inside, other=0.0).to(tl.float32)
        if WEIGHTED:
            part *= tl.load(weight + p, mask=q < end, other=0.0).to(tl.float32)[:, None]
        acc += tl.sum(part, 0)
    tl.store(out + t.to(tl.int64) * D + d, acc.to(out.dtype.element_ty), mask=d < D)


@triton.jit
def _combine_backward_kernel(
    d_out, rows, weight, token, total, d_rows, d_weight, P, D, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr
):
    """d_rows[p] = weight[p] * d_out[token[p]] and d_weight[p] = rows[p] . d_out[token[p]]; 0 past the last pair."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    real = p < tl.minimum(P, tl.load(total))
    t = tl.load(token + p, mask=real, other=0)
    scale = tl.load(weight + p, mask=real, other=0.0).to(tl.float32)
    place = p.to(tl.int64)[:, None] * D
    product = tl.zeros((BLOCK_P,), tl.float32)
    for first in range(0, D, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)[None, :]
        inside = real[:, None] & (d < D)
        grad = tl.load(d_out + t[:, None] * D + d, mask=inside, other=0.0).to(tl.float32)
        row = tl.load(rows + place + d, mask=inside, other=0.0).to(tl.float32)
        product += tl.sum(grad * row, 1)
        d_row = (grad * scale[:, None]).to(d_rows.dtype.element_ty)
        tl.store(d_rows + place + d, d_row, mask=(p < P)[:, None] & (d < D))
    tl.store(d_weight + p, product.to(d_weight.dtype.element_ty), mask=p < P)


def sum_rows(rows_PD: Tensor, weight_P: Tensor | None, pair_P: Tensor, token_offsets_T1: Tensor) -> Tensor:
    """(T, D): each token's sum of its rows, weighted where weights are given."""
    T, D = token_offsets_T1.shape[0] - 1, rows_PD.shape[1]
    out = rows_PD.new_empty(T, D)
    if T:
        block_d = min(512, triton.next_power_of_2(D))
        _combine_kernel[(T, triton.cdiv(D, block_d))](
            rows_PD, weight_P, pair_P, token_offsets_T1, out, D,
            WEIGHTED=weight_P is not None, BLOCK_K=8, BLOCK_D=block_d, num_warps=4,
        )  # fmt: skip
    return out


@torch.library.custom_op("timeexpert::combine", mutates_args=())
def combine(rows_PD: Tensor, weight_P: Tensor, token_P: Tensor, pair_P: Tensor, token_offsets_T1: Tensor) -> Tensor:
    """(T, D), differentiable in rows_PD and weight_P."""
    with torch.cuda.device_of(rows_PD):  # Triton launches on the current device; autograd sets it, who calls may not
        return sum_rows(rows_PD.contiguous(), weight_P.contiguous(), pair_P, token_offsets_T1)


@combine.register_fake
def _(rows_PD: Tensor, weight_P: Tensor, token_P: Tensor, pair_P: Tensor, token_offsets_T1: Tensor) -> Tensor:
    return rows_PD.new_empty(token_offsets_T1.shape[0] - 1, rows_PD.shape[1])


@torch.library.custom_op("timeexpert::combine_backward", mutates_args=())
def combine_backward(
    d_out_TD: Tensor, rows_PD: Tensor, weight_P: Tensor, token_P: Tensor, token_offsets_T1: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of rows_PD and weight_P."""
    P, D = rows_PD.shape
    d_rows = torch.empty_like(rows_PD, memory_format=torch.contiguous_format)
    d_weight = torch.empty_like(weight_P, memory_format=torch.contiguous_format)
    if P:
        block_p, block_d = 4, min(512, triton.next_power_of_2(D))
        _combine_backward_kernel[(triton.cdiv(P, block_p),)](
            d_out_TD.contiguous(), rows_PD.contiguous(), weight_P.contiguous(), token_P, token_offsets_T1[-1:],
            d_rows, d_weight, P, D, BLOCK_P=block_p, BLOCK_D=block_d, num_warps=4,
        )  # fmt: skip
    return d_rows, d_weight


@combine_backward.register_fake
def _(
    d_out_TD: Tensor, rows_PD: Tensor, weight_P: Tensor, token_P: Tensor, token_offsets_T1: Tensor
) -> tuple[Tensor, Tensor]:
    return rows_PD.new_empty(rows_PD.shape), weight_P.new_empty(weight_P.shape)


def _save(ctx, inputs, output) -> None:
    rows_PD, weight_P, token_P, _, token_offsets_T1 = inputs
    ctx.save_for_backward(rows_PD, weight_P, token_P, token_offsets_T1)


def _backward(ctx, d_out_TD: Tensor):
    d_rows, d_weight = combine_backward(d_out_TD, *ctx.saved_tensors)
    return d_rows, d_weight, None, None, None


combine.register_autograd(_backward, setup_context=_save)
