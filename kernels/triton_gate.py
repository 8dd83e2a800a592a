"""Triton: the top-any gate and its backward pass as custom ops.

T tokens, D model dim, E expert slots, A token types, B blocks of tokens, S slices of the tokens.

Cosines need float32. With tokens in bf16, each weight in float32 is split into three bf16 numbers that sum up to it,
so that the tensor cores compute the product exactly, in three steps, while the tokens are read once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_common import autotune, dot
from .triton_permutation import tokens_per_block

EPS = tl.constexpr(1e-12)  # of torch.nn.functional.normalize
FALLBACKS = {"skip": 0, "top1": 1, "least_utilised": 2}
CONFIGS = [
    triton.Config({"BLOCK_D": d}, num_warps=warps, num_stages=stages)
    for d, warps, stages in [(64, 8, 4), (64, 8, 3), (128, 8, 3), (32, 8, 4)]
]
SMALL = {"BLOCK_D": 32}


@triton.jit
def _norm_kernel(weight, parts, norm, E, D, PARTS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Length of each row of weight (E, D); with PARTS, the row as a sum of that many bf16 rows too."""
    e = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for first in range(0, D, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        rest = tl.load(weight + e * D + d, mask=d < D, other=0.0).to(tl.float32)
        total += rest * rest
        for part in tl.static_range(PARTS):
            piece = rest.to(tl.bfloat16)
            tl.store(parts + (part * E + e) * D + d, piece, mask=d < D)
            rest -= piece.to(tl.float32)
    tl.store(norm + e, tl.sqrt(tl.sum(total, 0)))


@autotune(CONFIGS, ["E", "D"], interpreter=SMALL)
@triton.jit
def _gate_kernel(
    x, parts, norm_e, threshold, rates, types, active, scale, alpha, least_used,
    score, task, gate, mask, fallback, flipped, block_counts, count, norm_t, types_known, T, E, D, A,
    FALLBACK: tl.constexpr, PARTS: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Scores, decisions and counts of one block of tokens."""
    block = tl.program_id(0)
    t = block * BLOCK_T + tl.arange(0, BLOCK_T)
    e = tl.arange(0, BLOCK_E)
    t_in, e_in = t < T, e < E
    product = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    square = tl.zeros((BLOCK_T,), tl.float32)
    for first in range(0, D, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        x_td = tl.load(x + t.to(tl.int64)[:, None] * D + d[None, :], mask=t_in[:, None] & (d < D)[None, :], other=0.0)
        wide = x_td.to(tl.float32)
        square += tl.sum(wide * wide, 1)
        for part in tl.static_range(PARTS):
            w_de = parts + (part * E + e[None, :]) * D + d[:, None]
            w_de = tl.load(w_de, mask=(d < D)[:, None] & e_in[None, :], other=0.0)
            if UPCAST:
                product = dot(wide, w_de.to(tl.float32), product, "ieee")
            else:
                product = dot(x_td, w_de, product, "ieee")

    length = tl.sqrt(square)
    tl.store(norm_t + t, length, mask=t_in)
    norm = tl.load(norm_e + e, mask=e_in, other=1.0)
    score_te = product / (tl.maximum(length, EPS)[:, None] * tl.maximum(norm, EPS)[None, :]) * tl.load(scale)
    history = tl.load(alpha)
    kind = tl.load(types + t, mask=t_in, other=0)
    known = (kind >= 0) & (kind < A)
    tl.store(types_known, 0, mask=tl.min(known.to(tl.int32), 0) == 0)
    rate = rates + kind[:, None] * E + e[None, :]
    rate = tl.load(rate, mask=known[:, None] & e_in[None, :], other=0.0).to(tl.float32)
    task_te = (score_te + history * rate) / (1 + history)

    limit = tl.load(threshold + e, mask=e_in, other=0.0).to(tl.float32)[None, :]
    active_e = tl.load(active + e, mask=e_in, other=0) != 0
    usable = active_e[None, :] & t_in[:, None]
    hard = (task_te > limit) & usable
    plain = (score_te / (1 + history) > limit) & usable
    none = tl.sum(hard.to(tl.int32), 1) == 0
    routed = hard
    if FALLBACK == 1:
        # a NaN score loses against all others, as long as it is an expert's
        candidate = tl.where(task_te == task_te, task_te, -3.0e38)
        best = tl.argmax(tl.where(usable, candidate, float("-inf")), 1)
        routed = hard | ((e[None, :] == best[:, None]) & none[:, None] & usable)
    if FALLBACK == 2:
        routed = hard | ((e[None, :] == tl.load(least_used)) & none[:, None] & usable)

    inside = t_in[:, None] & e_in[None, :]
    place = t.to(tl.int64)[:, None] * E + e[None, :]
    tl.store(score + place, score_te, mask=inside)
    tl.store(task + place, task_te, mask=inside)
    tl.store(gate + place, hard.to(tl.float32), mask=inside)
    tl.store(mask + place, routed.to(tl.uint8), mask=inside)
    tl.store(fallback + t, none.to(tl.uint8), mask=t_in)
    flips = tl.sum((plain != hard).to(tl.float32), 1)
    tl.store(flipped + t, flips / tl.maximum(tl.sum(active_e.to(tl.int32), 0), 1).to(tl.float32), mask=t_in)
    tl.store(block_counts + block * E + e, tl.sum(routed.to(tl.int32), 0), mask=e_in)
    tl.store(count + t, tl.sum(routed.to(tl.int32), 1), mask=t_in)


@autotune(CONFIGS, ["E", "D"], interpreter=SMALL)
@triton.jit
def _backward_kernel(
    x, weight, norm_t, norm_e, threshold, active, scale, alpha, score, task, gate, d_score, d_task, d_gate,
    factor, d_x, score_sum, threshold_sum, T, E, D,
    ALL: tl.constexpr, NEED_X: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Per block of tokens: d_x, what d_weight needs of each pair, and this block's share of what is summed over T.

    With c = <x, w> / (|x| |w|) and d_c its gradient: d_x = sum_e d_c w / (|x| |w|) - (sum_e d_c c) x / |x|^2.
    """
    block = tl.program_id(0)
    t = block * BLOCK_T + tl.arange(0, BLOCK_T)
    e = tl.arange(0, BLOCK_E)
    t_in, e_in = t < T, e < E
    inside = t_in[:, None] & e_in[None, :]
    place = t.to(tl.int64)[:, None] * E + e[None, :]

    reach = tl.load(gate + place, mask=inside, other=0.0) > 0
    if ALL:
        reach = (tl.load(active + e, mask=e_in, other=0) != 0)[None, :] & t_in[:, None]
    step = tl.where(reach, tl.load(d_gate + place, mask=inside, other=0.0), 0.0)
    limit = tl.sigmoid(tl.load(threshold + e, mask=e_in, other=0.0).to(tl.float32))
    tl.store(threshold_sum + block * E + e, -tl.sum(step, 0) * limit * (1 - limit), mask=e_in)
    passed = tl.sigmoid(tl.load(task + place, mask=inside, other=0.0))
    d_te = tl.load(d_task + place, mask=inside, other=0.0) + step * passed * (1 - passed)
    d_te = tl.load(d_score + place, mask=inside, other=0.0) + d_te / (1 + tl.load(alpha))
    along = d_te * tl.load(score + place, mask=inside, other=0.0)  # d_c c: the scale cancels
    tl.store(score_sum + block * E + e, tl.sum(along, 0), mask=e_in)

    length = tl.load(norm_t + t, mask=t_in, other=1.0)
    norm = tl.load(norm_e + e, mask=e_in, other=1.0)
    factor_te = d_te * tl.load(scale) / (tl.maximum(length, EPS)[:, None] * tl.maximum(norm, EPS)[None, :])
    tl.store(factor + place, factor_te, mask=inside)
    if NEED_X:
        # below EPS the length is a constant, as in normalize
        back = tl.where(length >= EPS, tl.sum(along, 1), 0.0) / (tl.maximum(length, EPS) * tl.maximum(length, EPS))
        for first in range(0, D, BLOCK_D):
            d = first + tl.arange(0, BLOCK_D)
            w_ed = weight + e.to(tl.int64)[:, None] * D + d[None, :]
            w_ed = tl.load(w_ed, mask=e_in[:, None] & (d < D)[None, :], other=0.0).to(tl.float32)
            here = t.to(tl.int64)[:, None] * D + d[None, :]
            x_td = tl.load(x + here, mask=t_in[:, None] & (d < D)[None, :], other=0.0).to(tl.float32)
            grad = dot(factor_te, w_ed, -back[:, None] * x_td, PRECISION)
            tl.store(d_x + here, grad.to(d_x.dtype.element_ty), mask=t_in[:, None] & (d < D)[None, :])


@autotune(CONFIGS, ["E", "D"], interpreter=SMALL)
@triton.jit
def _weight_kernel(
    x, factor, out, T, E, D, slice_size, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[s] = factor^T x over slice s of the tokens."""
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    start = tl.program_id(1) * slice_size
    e = tl.arange(0, BLOCK_E)
    acc = tl.zeros((BLOCK_E, BLOCK_D), tl.float32)
    for first in range(start, tl.minimum(start + slice_size, T), BLOCK_T):
        t = first + tl.arange(0, BLOCK_T).to(tl.int64)
        f_et = tl.load(factor + t[None, :] * E + e[:, None], mask=(e < E)[:, None] & (t < T)[None, :], other=0.0)
        x_td = tl.load(x + t[:, None] * D + d[None, :], mask=(t < T)[:, None] & (d < D)[None, :], other=0.0)
        acc = dot(f_et, x_td.to(tl.float32), acc, PRECISION)
    place = (tl.program_id(1) * E + e).to(tl.int64)[:, None] * D + d[None, :]
    tl.store(out + place, acc, mask=(e < E)[:, None] & (d < D)[None, :])


def _block_e(num_experts: int) -> int:
    return max(16, triton.next_power_of_2(num_experts))  # tl.dot takes 16 columns or more


def _split(x_TD: Tensor, weight_ED: Tensor) -> tuple[Tensor, Tensor, int]:
    """What the kernel multiplies by, (parts, E, D), the lengths of the rows, (E,) float32, and the number of parts."""
    E, D = weight_ED.shape
    parts = 3 if x_TD.dtype == torch.bfloat16 and weight_ED.dtype != torch.bfloat16 else 0
    out = weight_ED.new_empty(parts, E, D, dtype=torch.bfloat16)
    norm_E = weight_ED.new_empty(E, dtype=torch.float32)
    _norm_kernel[(E,)](
        weight_ED, out, norm_E, E, D, PARTS=parts, BLOCK_D=min(1024, triton.next_power_of_2(D)), num_warps=4
    )
    return (out, norm_E, parts) if parts else (weight_ED, norm_E, 1)


@torch.library.custom_op("timeexpert::gate", mutates_args=())
def gate(
    x_TD: Tensor,
    weight_ED: Tensor,
    threshold_E: Tensor,
    rates_AE: Tensor,
    type_T: Tensor,
    active_E: Tensor,
    scale: Tensor,
    alpha: Tensor,
    fallback: str,
    straight_through: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """score_TE, task_TE, gate_TE, mask_TE, fallback_T, flipped_T of ``gate.GateOutput``, tokens per block and expert,
    experts per token, and for the backward pass the lengths of the tokens and of the rows of the weight."""
    (T, D), (A, E) = x_TD.shape, rates_AE.shape
    x_TD, weight_ED, active_E = x_TD.contiguous(), weight_ED.contiguous(), active_E.contiguous()
    least_used = (-rates_AE.sum(0)).masked_fill(~active_E, float("-inf")).argmax(-1, keepdim=True)
    score, task, gate_, mask, none, flipped, block_counts, count, norm_T = _empty(x_TD, E)
    with torch.cuda.device_of(x_TD):
        parts, norm_E, num_parts = _split(x_TD, weight_ED)
        if T:
            types_known = x_TD.new_ones(1, dtype=torch.int32)
            _gate_kernel[(block_counts.shape[0],)](
                x_TD, parts, norm_E, threshold_E.contiguous(), rates_AE.contiguous(), type_T.contiguous(),
                active_E.view(torch.uint8), scale.float(), alpha.float(), least_used,
                score, task, gate_, mask.view(torch.uint8), none.view(torch.uint8), flipped,
                block_counts, count, norm_T, types_known, T, E, D, A,
                FALLBACK=FALLBACKS[fallback], PARTS=num_parts, UPCAST=x_TD.dtype != torch.bfloat16,
                BLOCK_T=tokens_per_block(T), BLOCK_E=_block_e(E),
            )  # fmt: skip
            torch._assert_async(types_known, f"gate: a token's type is not in [0, {A})")
    return score, task, gate_, mask, none, flipped, block_counts, count, norm_T, norm_E


def _empty(x_TD: Tensor, E: int) -> tuple[Tensor, ...]:
    T = x_TD.shape[0]
    shapes = [
        *[((T, E), torch.float32)] * 3,
        ((T, E), torch.bool),
        ((T,), torch.bool),
        ((T,), torch.float32),
        ((triton.cdiv(T, tokens_per_block(T)), E), torch.int32),
        ((T,), torch.int32),
        ((T,), torch.float32),
    ]
    return tuple(x_TD.new_empty(shape, dtype=kind) for shape, kind in shapes)


@gate.register_fake
def _(
    x_TD: Tensor,
    weight_ED: Tensor,
    threshold_E: Tensor,
    rates_AE: Tensor,
    type_T: Tensor,
    active_E: Tensor,
    scale: Tensor,
    alpha: Tensor,
    fallback: str,
    straight_through: str,
) -> tuple[Tensor, ...]:
    E = weight_ED.shape[0]
    return *_empty(x_TD, E), weight_ED.new_empty(E, dtype=torch.float32)


@torch.library.custom_op("timeexpert::gate_backward", mutates_args=())
def gate_backward(
    d_score_TE: Tensor,
    d_task_TE: Tensor,
    d_gate_TE: Tensor,
    x_TD: Tensor,
    weight_ED: Tensor,
    threshold_E: Tensor,
    active_E: Tensor,
    scale: Tensor,
    alpha: Tensor,
    score_TE: Tensor,
    task_TE: Tensor,
    gate_TE: Tensor,
    norm_T: Tensor,
    norm_E: Tensor,
    straight_through: str,
    need_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x (empty where it is not needed), weight, threshold and scale."""
    (T, D), E = x_TD.shape, weight_ED.shape[0]
    x_TD, weight_ED = x_TD.contiguous(), weight_ED.contiguous()
    block_t = 64
    blocks = triton.cdiv(T, block_t)
    slices = max(1, min(8, blocks))
    slice_size = triton.cdiv(blocks, slices) * block_t
    # what float32 products need on the tensor cores: three steps in tf32
    precision = "tf32x3" if x_TD.dtype == torch.bfloat16 else "ieee"
    factor_TE = torch.empty_like(score_TE)
    d_x = torch.empty_like(x_TD) if need_x else x_TD.new_empty(0)
    score_sum_BE, threshold_sum_BE = score_TE.new_empty(2, blocks, E).unbind()
    d_weight_SED = score_TE.new_zeros(slices, E, D)
    if T:
        _backward_kernel[(blocks,)](
            x_TD, weight_ED, norm_T, norm_E, threshold_E.contiguous(), active_E.contiguous().view(torch.uint8),
            scale.float(), alpha.float(), score_TE, task_TE, gate_TE,
            d_score_TE.contiguous(), d_task_TE.contiguous(), d_gate_TE.contiguous(),
            factor_TE, d_x, score_sum_BE, threshold_sum_BE, T, E, D,
            ALL=straight_through == "all", NEED_X=need_x, PRECISION=precision, BLOCK_T=block_t, BLOCK_E=_block_e(E),
        )  # fmt: skip
        _weight_kernel[lambda meta: (triton.cdiv(D, meta["BLOCK_D"]), slices)](
            x_TD, factor_TE, d_weight_SED, T, E, D, slice_size,
            PRECISION=precision, BLOCK_T=block_t, BLOCK_E=_block_e(E),
        )  # fmt: skip
    along_E = score_sum_BE.sum(0)
    back_E = torch.where(norm_E >= EPS.value, along_E / norm_E.square(), 0.0)
    d_weight = d_weight_SED.sum(0) - back_E[:, None] * weight_ED.float()
    d_scale = (along_E.sum() / scale).to(scale.dtype)
    return d_x, d_weight.to(weight_ED.dtype), threshold_sum_BE.sum(0).to(threshold_E.dtype), d_scale


@gate_backward.register_fake
def _(
    d_score_TE: Tensor,
    d_task_TE: Tensor,
    d_gate_TE: Tensor,
    x_TD: Tensor,
    weight_ED: Tensor,
    threshold_E: Tensor,
    active_E: Tensor,
    scale: Tensor,
    alpha: Tensor,
    score_TE: Tensor,
    task_TE: Tensor,
    gate_TE: Tensor,
    norm_T: Tensor,
    norm_E: Tensor,
    straight_through: str,
    need_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x_TD.new_empty(x_TD.shape) if need_x else x_TD.new_empty(0),
        weight_ED.new_empty(weight_ED.shape),
        threshold_E.new_empty(threshold_E.shape),
        scale.new_empty(scale.shape),
    )


def _save(ctx, inputs, output) -> None:
    x_TD, weight_ED, threshold_E, _, _, active_E, scale, alpha, _, ctx.straight_through = inputs
    score_TE, task_TE, gate_TE, *_, norm_T, norm_E = output
    ctx.save_for_backward(
        x_TD, weight_ED, threshold_E, active_E, scale, alpha, score_TE, task_TE, gate_TE, norm_T, norm_E
    )


def _backward(ctx, d_score_TE: Tensor, d_task_TE: Tensor, d_gate_TE: Tensor, *_: Tensor):
    need_x, *needs = ctx.needs_input_grad[:3]
    d_x, d_weight, d_threshold, d_scale = gate_backward(
        d_score_TE, d_task_TE, d_gate_TE, *ctx.saved_tensors, ctx.straight_through, need_x
    )
    return (
        d_x if need_x else None,
        d_weight,
        d_threshold,
        *[None] * 3,
        d_scale if ctx.needs_input_grad[6] else None,
        *[None] * 3,
    )


gate.register_autograd(_backward, setup_context=_save)
