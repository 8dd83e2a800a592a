"""Triton: the experts' MLP over routed rows as a custom op with its backward pass.

T tokens, P rows (pairs), D model dim, F expert dim, E expert slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .triton_combine import sum_rows
from .triton_gemm import rows_times_weight, swiglu_backward, swiglu_rows, weight_gradient


@torch.library.custom_op("timeexpert::swiglu_experts", mutates_args=())
def swiglu_experts(
    x: Tensor,
    gate_up_ED2F: Tensor,
    down_EFD: Tensor,
    expert_offsets_E1: Tensor,
    token_P: Tensor | None,
    pair_P: Tensor | None,
    token_offsets_T1: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Rows (P, D), and what the backward pass needs where ``keep``: gate and up, (P, 2F).

    With a permutation ``x`` is (T, D) and rows are gathered from it; without, ``x`` is (P, D), sorted by expert.
    """
    if token_P is None:  # rows past the last offset would be of no expert, and never written
        torch._assert_async(expert_offsets_E1[-1] == x.shape[0], "experts: the last offset is not the number of rows")
    with torch.cuda.device_of(x):
        hidden_PF, gate_up_P2F = swiglu_rows(x.contiguous(), gate_up_ED2F, expert_offsets_E1, token_P, keep)
        return rows_times_weight(hidden_PF, down_EFD, expert_offsets_E1, None), gate_up_P2F


@swiglu_experts.register_fake
def _(
    x: Tensor,
    gate_up_ED2F: Tensor,
    down_EFD: Tensor,
    expert_offsets_E1: Tensor,
    token_P: Tensor | None,
    pair_P: Tensor | None,
    token_offsets_T1: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    P = x.shape[0] if token_P is None else token_P.shape[0]
    return x.new_empty(P, down_EFD.shape[2]), x.new_empty(P if keep else 0, gate_up_ED2F.shape[2])


@torch.library.custom_op("timeexpert::swiglu_experts_backward", mutates_args=())
def swiglu_experts_backward(
    d_rows_PD: Tensor,
    x: Tensor,
    gate_up_ED2F: Tensor,
    down_EFD: Tensor,
    expert_offsets_E1: Tensor,
    token_P: Tensor | None,
    pair_P: Tensor | None,
    token_offsets_T1: Tensor | None,
    gate_up_P2F: Tensor,
    need_x: bool,
    need_gate_up: bool,
    need_down: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x and of both weights; empty where one is not needed."""
    d_rows_PD, x = d_rows_PD.contiguous(), x.contiguous()
    offsets = expert_offsets_E1
    d_hidden_PF = rows_times_weight(d_rows_PD, down_EFD.transpose(1, 2), offsets, None)
    hidden_PF, d_gate_up_P2F = swiglu_backward(gate_up_P2F, d_hidden_PF, offsets)
    d_x, d_gate_up, d_down = x.new_empty(0), gate_up_ED2F.new_empty(0), down_EFD.new_empty(0)
    if need_down:
        d_down = weight_gradient(hidden_PF, d_rows_PD, offsets, None, down_EFD)
    if need_gate_up:
        d_gate_up = weight_gradient(x, d_gate_up_P2F, offsets, token_P, gate_up_ED2F)
    if need_x:
        d_x = rows_times_weight(d_gate_up_P2F, gate_up_ED2F.transpose(1, 2), offsets, None)
        if pair_P is not None and token_offsets_T1 is not None:
            d_x = sum_rows(d_x, None, pair_P, token_offsets_T1)
    return d_x, d_gate_up, d_down


@swiglu_experts_backward.register_fake
def _(
    d_rows_PD: Tensor,
    x: Tensor,
    gate_up_ED2F: Tensor,
    down_EFD: Tensor,
    expert_offsets_E1: Tensor,
    token_P: Tensor | None,
    pair_P: Tensor | None,
    token_offsets_T1: Tensor | None,
    gate_up_P2F: Tensor,
    need_x: bool,
    need_gate_up: bool,
    need_down: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape) if need_x else x.new_empty(0),
        torch.empty_like(gate_up_ED2F) if need_gate_up else gate_up_ED2F.new_empty(0),
        torch.empty_like(down_EFD) if need_down else down_EFD.new_empty(0),
    )


def _save(ctx, inputs, output) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)  # or each backward pass fills a tensor of zeros as large as gate and up


def _backward(ctx, d_rows_PD: Tensor, _d_kept: None):
    needs = ctx.needs_input_grad[:3]
    grads = swiglu_experts_backward(d_rows_PD, *ctx.saved_tensors, *needs)
    return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None, None, None, None


swiglu_experts.register_autograd(_backward, setup_context=_save)
