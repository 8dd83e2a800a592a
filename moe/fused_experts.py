"""The routed experts as one differentiable function: gather, SwiGLU, weighted sum per token, expert by expert.

What is fast on a CPU. An expert's rows are gathered, multiplied and added to their tokens while they are in the cache,
in buffers that the next expert uses again; autograd over whole tensors would move each of about ten tensors of all
pairs through memory, and fresh pages cost more than the arithmetic on them. Gradients of weights are written where
they stay. The combination weight multiplies the hidden rows, which are narrower than the output's.

T tokens, P routed pairs sorted by expert, D model dim, F expert dim, E expert slots, N rows of one expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# In bf16 oneDNN compiles code for every new shape, which took twice as long as the product itself (200 rows, 512 by
# 512, AMD EPYC, torch 2.13), and at every step an expert gets another number of rows: rows of zeros keep shapes few.
PADDING = {torch.bfloat16: 16, torch.float16: 16}
# flags of torch.cpu.get_capabilities(), one of which a CPU needs to multiply this type faster than float32
FLAGS = {torch.bfloat16: ("avx512_bf16", "amx_bf16"), torch.float16: ("avx512_fp16", "amx_fp16")}


def product_type(like: Tensor) -> torch.dtype:
    """The type in which to multiply what is of this one's type and device; float32 where that is faster.

    Without instructions of its own for bf16, a matrix product of bf16 took four times as long as one of float32 (Intel
    Xeon at 2.8 GHz with AVX-512 alone, torch 2.13: benchmarks/README.md). Results are rounded to bf16 either way.
    """
    slow = like.device.type == "cpu" and like.dtype in FLAGS and not _has_one_of(FLAGS[like.dtype])
    return torch.float32 if slow else like.dtype


@lru_cache
def _has_one_of(flags: tuple[str, ...]) -> bool:
    """Whether this CPU has; true where torch does not tell, and for CPUs other than x86."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return capabilities.get("architecture") != "x86_64" or any(capabilities.get(flag) for flag in flags)


def fused_experts(
    x_TD: Tensor, gate_up_ED2F: Tensor, down_EFD: Tensor, token_P: Tensor, weight_P: Tensor, counts_E: Tensor
) -> Tensor:
    """y_TD: each token's sum of weight * down(silu(gate(x)) * up(x)) over its pairs, 0 where it has none.

    ``token_P``, ``weight_P`` (P,) and ``counts_E`` (E,) as in :class:`timeexpert.moe.Routing`. x and both weights
    are of one float type; y is summed in float32 at least and is returned so. Gradients reach x, both weights (exactly
    0 for experts without rows) and ``weight_P``; there is no second derivative.
    """
    differentiable = (x_TD, gate_up_ED2F, down_EFD, weight_P)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in differentiable)
    return _FusedExperts.apply(x_TD, gate_up_ED2F, down_EFD, token_P, weight_P, counts_E.tolist(), keep)


class _FusedExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        gate_up_ED2F: Tensor,
        down_EFD: Tensor,
        token_P: Tensor,
        weight_P: Tensor,
        counts: list[int],
        keep: bool,
    ) -> Tensor:
        width, kind = down_EFD.shape[1], product_type(x_TD)
        padding = _padding(x_TD.device, kind)
        room = max(counts) + padding
        # gate and up of all pairs are kept for the backward pass; without one, an expert's rows at a time
        gate_up_P2F = x_TD.new_empty(len(token_P) + padding if keep else room, 2 * width, dtype=kind)
        y_TD = zeros_to_sum(x_TD)
        x_buffer = x_TD.new_empty(room, x_TD.shape[1], dtype=kind)
        hidden_buffer = x_TD.new_empty(room, width, dtype=kind)
        x_KD = x_TD.to(kind)
        for e, rows, padded in _runs(counts, padding):
            token = token_P[rows]
            # what the zeros' rows overwrite belongs to the next expert, which comes later
            gate_up = gate_up_P2F[rows.start :][:padded] if keep else gate_up_P2F[:padded]
            x, hidden = gather_rows(x_KD, token, x_buffer[:padded]), hidden_buffer[:padded]
            torch.mm(x, gate_up_ED2F[e].to(kind), out=gate_up)
            gate, up = gate_up[:, :width], gate_up[:, width:]
            torch.mul(_silu(gate, hidden), up, out=hidden)
            hidden[: len(token)].mul_(weight_P[rows, None])
            add_rows(y_TD, token, torch.mm(hidden, down_EFD[e].to(kind), out=x))
        if keep:
            ctx.save_for_backward(x_TD, gate_up_ED2F, down_EFD, token_P, weight_P, gate_up_P2F)
            ctx.counts = counts
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, gate_up_ED2F, down_EFD, token_P, weight_P, gate_up_P2F = ctx.saved_tensors
        counts, width, kind = ctx.counts, down_EFD.shape[1], gate_up_P2F.dtype
        padding = _padding(x_TD.device, kind)
        x_KD, d_y_KD = x_TD.to(kind), grads[0].to(kind)
        wants_x, wants_gate_up, wants_down, _, wants_weight = ctx.needs_input_grad[:5]
        d_x_TD = zeros_to_sum(x_TD) if wants_x else None
        d_gate_up_ED2F = _gradient_of(gate_up_ED2F, counts) if wants_gate_up else None
        d_down_EFD = _gradient_of(down_EFD, counts) if wants_down else None
        d_weight_P = torch.empty_like(weight_P) if wants_weight else None
        widths = (x_TD.shape[1], x_TD.shape[1], width, width, width, 2 * width)
        buffers = [x_TD.new_empty(max(counts) + padding, wide, dtype=kind) for wide in widths]
        for e, rows, padded in _runs(counts, padding):
            x, d_y, silu, hidden, d_hidden, d_gate_up = (buffer[:padded] for buffer in buffers)
            token, weight = token_P[rows], weight_P[rows, None]
            gate_up = gate_up_P2F[rows.start :][:padded]  # its last rows may be the next expert's; their d_y is 0
            gate, up = gate_up[:, :width], gate_up[:, width:]
            torch.mul(_silu(gate, silu), up, out=hidden)
            torch.mm(gather_rows(d_y_KD, token, d_y), down_EFD[e].t().to(kind), out=d_hidden)  # of weight * hidden
            if d_weight_P is not None:
                products = torch.mul(hidden, d_hidden)[: len(token)]
                d_weight_P[rows] = products.sum(-1, dtype=weight_P.dtype)
            if d_down_EFD is not None:
                hidden[: len(token)].mul_(weight)
                _product(hidden.t(), d_y, out=d_down_EFD[e])
            if d_gate_up_ED2F is None and d_x_TD is None:
                continue
            d_hidden[: len(token)].mul_(weight)
            torch.mul(d_hidden, silu, out=d_gate_up[:, width:])
            torch.ops.aten.silu_backward.grad_input(d_hidden.mul_(up), gate, grad_input=d_gate_up[:, :width])
            if d_gate_up_ED2F is not None:
                _product(gather_rows(x_KD, token, x).t(), d_gate_up, out=d_gate_up_ED2F[e])
            if d_x_TD is not None:
                add_rows(d_x_TD, token, torch.mm(d_gate_up, gate_up_ED2F[e].t().to(kind), out=x))
        d_x_TD = None if d_x_TD is None else d_x_TD.to(x_TD.dtype)
        return d_x_TD, d_gate_up_ED2F, d_down_EFD, None, d_weight_P, None, None


def _padding(device: torch.device, kind: torch.dtype) -> int:
    """What the number of an expert's rows is made a multiple of."""
    return PADDING.get(kind, 1) if device.type == "cpu" else 1


def _product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """a @ b, rounded once to the type of ``out``."""
    if out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(torch.mm(a, b))


def _runs(counts: list[int], padding: int) -> Iterator[tuple[int, slice, int]]:
    """Each expert that has rows, where they are, and how many they are with padding."""
    end = 0
    for e, count in enumerate(counts):
        end += count
        if count:
            yield e, slice(end - count, end), count + -count % padding


def gather_rows(x_TD: Tensor, token_N: Tensor, out: Tensor) -> Tensor:
    """The rows of these tokens in ``out``, and zeros after them."""
    torch.index_select(x_TD, 0, token_N, out=out[: len(token_N)])
    out[len(token_N) :] = 0
    return out


def zeros_to_sum(like_TD: Tensor) -> Tensor:
    """Zeros of the type that sums of many rows need: float32 at least."""
    return torch.zeros_like(like_TD, dtype=torch.promote_types(like_TD.dtype, torch.float32))


def add_rows(sum_TD: Tensor, token_N: Tensor, rows: Tensor) -> None:
    """Add the rows of these tokens; ``rows`` may have padding after them."""
    sum_TD.index_add_(0, token_N, rows[: len(token_N)].to(sum_TD.dtype))


def _silu(gate: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.silu.out(gate, out=out)


def _gradient_of(weight_E: Tensor, counts: list[int]) -> Tensor:
    """Room for the gradient of stacked weights, 0 where an expert has no rows."""
    gradient_E = torch.empty_like(weight_E)
    for e, count in enumerate(counts):
        if not count:
            gradient_E[e].zero_()
    return gradient_E
