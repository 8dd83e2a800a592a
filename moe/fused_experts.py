"""The routed experts as one differentiable function: gather, SwiGLU, weighted sum per token, a few experts at a time.

What is fast on a CPU. The rows of a few experts are gathered, multiplied and added to their tokens while they are in
the cache, in buffers that the next experts use again; autograd over whole tensors would move each of about ten tensors
of all pairs through memory, and fresh pages cost more than the arithmetic on them. One expert's rows at a time would
be too few for two threads: all but the products is done for :data:`GROUP_ROWS` rows together. Gradients of weights are
written where they stay. The combination weight multiplies the hidden rows, which are narrower than the output's.

T tokens, P routed pairs sorted by expert, R rows: the pairs with padding; D model dim, F expert dim, E expert slots,
N rows of one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

GROUP_ROWS = 4096  # of the experts that are computed together, if one alone has not more
# In bf16 oneDNN compiles code for every new shape, which took twice as long as the product itself (200 rows, 512 by
# 512, AMD EPYC, torch 2.13), and at every step an expert gets another number of rows: padding keeps shapes few.
PADDING = {torch.bfloat16: 16, torch.float16: 16}
# A step of generation has few tokens. Each expert's rows are then filled up to their number, so that the products have
# the same shapes whoever routes where: a product of another shape is rounded otherwise, and answers that are generated
# side by side would depend on each other.
FEW_TOKENS = 24
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
        """y_TD as :func:`fused_experts` says; ``keep``: a backward pass may follow, and what it needs is saved."""
        width, kind = down_EFD.shape[1], product_type(x_TD)
        few = not keep and 0 < len(x_TD) <= FEW_TOKENS
        multiple = len(x_TD) if few else row_multiple(x_TD.device, kind)
        token_R, weight_R, place_P, groups = arrange(token_P, weight_P, counts, multiple)
        room = max((len(group) for group in groups), default=0)
        # gate and up of all rows are kept for the backward pass; without one, those of a group at a time
        gate_up_R2F = x_TD.new_empty(len(token_R) if keep else room, 2 * width, dtype=kind)
        x_buffer = x_TD.new_empty(room, x_TD.shape[1], dtype=kind)
        hidden_buffer = x_TD.new_empty(room, width, dtype=kind)
        y_TD, x_KD = zeros_to_sum(x_TD), x_TD.to(kind)
        gate_up_E, down_E = gate_up_ED2F.unbind(), down_EFD.unbind()
        for group in groups:
            token = token_R[group.rows]
            x, hidden = x_buffer[: len(group)], hidden_buffer[: len(group)]
            gate_up = gate_up_R2F[group.rows] if keep else gate_up_R2F[: len(group)]
            gate, up = gate_up.chunk(2, -1)
            group.multiply(torch.index_select(x_KD, 0, token, out=x), gate_up_E, out=gate_up)
            torch.mul(_silu(gate, hidden), up, out=hidden).mul_(weight_R[group.rows, None])
            group.multiply(hidden, down_E, out=x)
            y_TD.index_add_(0, token, x.to(y_TD.dtype))
        if keep:
            ctx.save_for_backward(x_TD, gate_up_ED2F, down_EFD, token_R, weight_R, place_P, gate_up_R2F)
            ctx.groups = groups
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, of both weights and of ``weight_P``, each where it is asked for, from that of y."""
        x_TD, gate_up_ED2F, down_EFD, token_R, weight_R, place_P, gate_up_R2F = ctx.saved_tensors
        groups, kind = ctx.groups, gate_up_R2F.dtype
        x_KD, d_y_KD = x_TD.to(kind), grads[0].to(kind)
        wants_x, wants_gate_up, wants_down, _, wants_weight = ctx.needs_input_grad[:5]
        d_x_TD = zeros_to_sum(x_TD) if wants_x else None
        d_gate_up_ED2F = _gradient_of(gate_up_ED2F, groups) if wants_gate_up else None
        d_down_EFD = _gradient_of(down_EFD, groups) if wants_down else None
        d_weight_R = torch.empty_like(weight_R) if wants_weight else None
        room, (_, width, model_dim) = max((len(group) for group in groups), default=0), down_EFD.shape
        widths = (model_dim, model_dim, width, width, width, 2 * width)
        buffers = [x_TD.new_empty(room, wide, dtype=kind) for wide in widths]
        gate_up_E, down_E = gate_up_ED2F.mT.unbind(), down_EFD.mT.unbind()
        d_gate_up_E = () if d_gate_up_ED2F is None else d_gate_up_ED2F.unbind()
        d_down_E = () if d_down_EFD is None else d_down_EFD.unbind()
        for group in groups:
            x, d_y, silu, hidden, d_hidden, d_gate_up = (buffer[: len(group)] for buffer in buffers)
            token, weight = token_R[group.rows], weight_R[group.rows, None]
            gate, up = gate_up_R2F[group.rows].chunk(2, -1)
            torch.mul(_silu(gate, silu), up, out=hidden)
            group.multiply(torch.index_select(d_y_KD, 0, token, out=d_y), down_E, out=d_hidden)  # of weight * hidden
            if d_weight_R is not None:
                products = torch.mul(hidden, d_hidden, out=d_gate_up[:, :width])
                torch.sum(products, -1, dtype=weight_R.dtype, out=d_weight_R[group.rows])
            if d_down_E:
                group.multiply_transposed(hidden.mul_(weight), d_y, d_down_E)
            if not d_gate_up_E and d_x_TD is None:
                continue
            torch.mul(d_hidden.mul_(weight), silu, out=d_gate_up[:, width:])
            torch.ops.aten.silu_backward.grad_input(d_hidden.mul_(up), gate, grad_input=d_gate_up[:, :width])
            if d_gate_up_E:
                group.multiply_transposed(torch.index_select(x_KD, 0, token, out=x), d_gate_up, d_gate_up_E)
            if d_x_TD is not None:
                group.multiply(d_gate_up, gate_up_E, out=x)
                d_x_TD.index_add_(0, token, x.to(d_x_TD.dtype))
        d_x_TD = None if d_x_TD is None else d_x_TD.to(x_TD.dtype)
        d_weight_P = None if d_weight_R is None else d_weight_R[place_P]
        return d_x_TD, d_gate_up_ED2F, d_down_EFD, None, d_weight_P, None, None


@dataclass(frozen=True)
class Group:
    """Experts that have rows, how many each has, and where they all are; a multiple of the row multiple each."""

    experts: list[int]
    counts: list[int]
    rows: slice

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start

    def multiply(self, rows_NA: Tensor, weight_EAB: Sequence[Tensor], out: Tensor) -> None:
        """Each expert's rows times its weight, (N, B)."""
        for e, rows, product in zip(self.experts, rows_NA.split(self.counts), out.split(self.counts), strict=True):
            weight = weight_EAB[e]
            torch.mm(rows, weight if weight.dtype == rows.dtype else weight.to(rows.dtype), out=product)

    def multiply_transposed(self, a_NA: Tensor, b_NB: Tensor, out_EAB: Sequence[Tensor]) -> None:
        """Each expert's a^T b in its place of ``out_EAB``, rounded once to its type."""
        for e, a, b in zip(self.experts, a_NA.t().split(self.counts, 1), b_NB.split(self.counts), strict=True):
            if out_EAB[e].dtype == a.dtype:
                torch.mm(a, b, out=out_EAB[e])
            else:
                out_EAB[e].copy_(torch.mm(a, b))


def arrange(
    token_P: Tensor, weight_P: Tensor, counts: list[int], multiple: int
) -> tuple[Tensor, Tensor, Tensor, list[Group]]:
    """token_R, weight_R, the place of each pair among these rows (P,), and the groups of experts that share them out.

    Each expert's rows are filled up to a ``multiple``, with token 0 at weight 0, which adds nothing anywhere.
    """
    padded = [count + -count % multiple for count in counts]
    groups, start, end = [], 0, 0
    experts: list[int] = []
    for e, count in enumerate(padded):
        if experts and end + count - start > GROUP_ROWS:
            groups.append(Group(experts, [padded[i] for i in experts], slice(start, end)))
            experts, start = [], end
        if count:
            experts.append(e)
            end += count
    if experts:
        groups.append(Group(experts, [padded[i] for i in experts], slice(start, end)))
    place_P = torch.arange(len(token_P), device=token_P.device)
    if multiple == 1:
        return token_P, weight_P, place_P, groups
    added_E = torch.tensor([after - before for before, after in zip(counts, padded, strict=True)])
    shift_E = added_E.cumsum(0) - added_E
    place_P += shift_E.repeat_interleave(torch.tensor(counts)).to(place_P.device)
    token_R, weight_R = token_P.new_zeros(end), weight_P.new_zeros(end)
    token_R[place_P], weight_R[place_P] = token_P, weight_P
    return token_R, weight_R, place_P, groups


def row_multiple(device: torch.device, kind: torch.dtype) -> int:
    """What the number of an expert's rows is made a multiple of."""
    return PADDING.get(kind, 1) if device.type == "cpu" else 1


def zeros_to_sum(like_TD: Tensor) -> Tensor:
    """Zeros of the type that sums of many rows need: float32 at least."""
    return torch.zeros_like(like_TD, dtype=torch.promote_types(like_TD.dtype, torch.float32))


def _silu(gate: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.silu.out(gate, out=out)


def _gradient_of(weight_E: Tensor, groups: list[Group]) -> Tensor:
    """Room for the gradient of stacked weights, 0 where an expert has no rows."""
    gradient_E = torch.empty_like(weight_E)
    for e in set(range(len(weight_E))).difference(*(group.experts for group in groups)):
        gradient_E[e].zero_()
    return gradient_E
