"""The definition of correct: every kernel in plain torch, differentiable by autograd, in any float type.

T tokens, D model dim, E expert slots, A token types, F expert dim, P routed (token, expert) pairs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Decide(torch.autograd.Function):
    """Decisions as 0 and 1, whose gradient goes to the margins of the pairs in ``reach`` (straight-through)."""

    @staticmethod
    def forward(ctx: Any, margin: Tensor, accepted: Tensor, reach: Tensor) -> Tensor:
        ctx.save_for_backward(reach)
        return accepted.to(margin.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.saved_tensors[0], None, None


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The top-any gate (Algorithm 1). Returns score_TE, task_TE, gate_TE, mask_TE, fallback_T, flipped_T: see
    :class:`timeexpert.kernels.gate.GateOutput`. float64 stays float64, every other type becomes float32."""
    kind = torch.promote_types(x_TD.dtype, torch.float32)
    x, weight, threshold = x_TD.to(kind), weight_ED.to(kind), threshold_E.to(kind)
    alpha = alpha.to(kind)
    score_TE = F.linear(F.normalize(x, dim=-1), F.normalize(weight, dim=-1)) * scale.to(kind)
    task_TE = (score_TE + alpha * rates_AE[type_T].to(kind)) / (1 + alpha)
    hard_TE = (task_TE > threshold) & active_E
    gate_TE = hard_TE.to(kind)
    if torch.is_grad_enabled():  # the sigmoids are monotone: they shape the gradient only
        margin_TE = torch.sigmoid(task_TE) - torch.sigmoid(threshold)
        gate_TE = _Decide.apply(margin_TE, hard_TE, hard_TE if straight_through == "selected" else active_E)
    fallback_T = ~hard_TE.any(-1)
    mask_TE = hard_TE
    if fallback != "skip":
        chosen_TE = task_TE
        if fallback == "least_utilised":
            chosen_TE = (-rates_AE.sum(0).to(kind)).expand_as(task_TE)
        best_T = chosen_TE.masked_fill(~active_E, float("-inf")).argmax(-1)
        best_TE = torch.zeros_like(hard_TE).scatter_(1, best_T[:, None], fallback_T[:, None])
        mask_TE = hard_TE | (best_TE & active_E)
    with torch.no_grad():
        plain_TE = (score_TE / (1 + alpha) > threshold) & active_E
        flipped_T = (plain_TE != hard_TE).sum(-1) / active_E.sum().clamp(min=1).to(kind)
    return score_TE, task_TE, gate_TE, mask_TE, fallback_T, flipped_T


def permutation(mask_TE: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """token_P, expert_P, expert_offsets_E1, pair_P, token_offsets_T1 of :class:`..permutation.Permutation`."""
    expert_P, token_P = mask_TE.t().nonzero(as_tuple=True)
    return token_P, expert_P, offsets(mask_TE.sum(0)), token_P.argsort(stable=True).int(), offsets(mask_TE.sum(1))


def offsets(counts_N: Tensor) -> Tensor:
    """(N,) counts -> (N + 1,) int32: where each run starts, and the end of the last."""
    return F.pad(counts_N.cumsum(0), (1, 0)).int()


def grouped_gemm(rows_PD: Tensor, weight_EDF: Tensor, expert_offsets_E1: Tensor) -> Tensor:
    """Rows of expert e times its matrix; rows_PD sorted by expert."""
    # unbind, not weight[e]: indexing makes a full-size gradient per expert
    parts = rows_PD.split(expert_offsets_E1.diff().tolist())
    return torch.cat([part @ weight for part, weight in zip(parts, weight_EDF.unbind(), strict=True)])


def swiglu(rows_PD: Tensor, gate_up_ED2F: Tensor, down_EFD: Tensor, expert_offsets_E1: Tensor) -> Tensor:
    """down(silu(gate(row)) * up(row)) with the weights of each row's expert: (P, D) -> (P, D)."""
    gate, up = grouped_gemm(rows_PD, gate_up_ED2F, expert_offsets_E1).chunk(2, dim=-1)
    return grouped_gemm(F.silu(gate) * up, down_EFD, expert_offsets_E1)


def combine(rows_PD: Tensor, weight_P: Tensor, token_P: Tensor, num_tokens: int) -> Tensor:
    """Each token's weighted sum of its rows: (P, D) -> (T, D). Sums in float32 at least."""
    kind = torch.promote_types(rows_PD.dtype, torch.float32)
    y_TD = torch.zeros(num_tokens, rows_PD.shape[1], dtype=kind, device=rows_PD.device)
    return y_TD.index_add(0, token_P, rows_PD.to(kind) * weight_P.to(kind)[:, None]).to(rows_PD.dtype)
