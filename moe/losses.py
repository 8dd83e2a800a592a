"""Losses on the gate's decisions: the paper's (Algorithm 1), ARIA's z-loss, DynMoE's and Switch's as options."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import MoEConfig
from .gate import Gate, Routing


def auxiliary_losses(
    gates: list[Gate], routings: list[Routing], type_T: Tensor, valid_T: Tensor, share: float = 1.0
) -> dict[str, Tensor]:
    """Every term by name, summed over the layers, times its weight and ``share``; options of weight 0 are left out.

    ``type_T`` (T,) int64 token types; ``valid_T`` (T,) bool, false for padding.
    """
    config, layers = gates[0].config, list(zip(gates, routings, strict=True))

    def total(weight: float, terms: list[Tensor]) -> Tensor:
        return share * weight * torch.stack(terms).sum()

    losses = {"z": total(config.z_loss, [z_loss(r, valid_T) for r in routings])}
    if config.router == "topany":
        losses["task"] = total(1.0, [task_dependent_loss(g, r, type_T, config, valid_T) for g, r in layers])
    if config.diversity_loss:
        losses["diversity"] = total(config.diversity_loss, [diversity_loss(g) for g in gates])
    if config.simplicity_loss:
        losses["simplicity"] = total(config.simplicity_loss, [simplicity_loss(g) for g in gates])
    if config.balance_loss:
        losses["balance"] = total(config.balance_loss, [balance_loss(g, r, valid_T) for g, r in layers])
    return losses


def z_loss(routing: Routing, valid_T: Tensor | None = None) -> Tensor:
    """mean(logsumexp(logits)^2) over tokens: keeps router logits small (ST-MoE; ARIA)."""
    value_T = torch.logsumexp(routing.z_logits_TE, dim=-1).square()
    return value_T.mean() if valid_T is None else value_T[valid_T].mean()


def task_dependent_loss(
    gate: Gate, routing: Routing, type_T: Tensor, config: MoEConfig, valid_T: Tensor | None = None
) -> Tensor:
    """lambda_1 sum_e (A_e / sum A - N_e / sum N)^2 + lambda_2 sum_e |W_e|_2  (Algorithm 1).

    A_e: what history would route to expert e of this batch: its rate for each token type times the tokens of
    that type here, detached. N_e: tokens routed to e, tokens that fell back included. ``straight_through`` counts
    them through the gate (but for those that fell back); ``printed`` counts whole numbers, so that the first term
    is reported and has no gradient.
    """
    routed_TE = routing.gate_TE + (routing.mask_TE & routing.fallback_T[:, None])
    if config.task_loss_counts == "printed":
        routed_TE = routing.mask_TE.float()
    if valid_T is not None:
        routed_TE, type_T = routed_TE[valid_T], type_T[valid_T]
    now_E = routed_TE.sum(0)
    history_E = gate.activation_rates[type_T].sum(0)
    loss = gate.weight.float()[gate.active_experts].norm(dim=-1).sum() * config.norm_loss
    if float(history_E.sum()) > 0:
        drift_E = history_E / history_E.sum() - now_E / now_E.sum().clamp(min=1.0)
        loss = loss + config.task_loss * drift_E.square().sum()
    return loss


def diversity_loss(gate: Gate) -> Tensor:
    """|W W^T - I|_F over the active experts' rows at length 1: rows that look the same way cost (DynMoE)."""
    rows_ED = F.normalize(gate.weight.float()[gate.active_experts], dim=-1)
    return (rows_ED @ rows_ED.t() - torch.eye(len(rows_ED), device=rows_ED.device)).norm()


def simplicity_loss(gate: Gate) -> Tensor:
    """Mean length of the active experts' rows (DynMoE)."""
    return gate.weight.float()[gate.active_experts].norm(dim=-1).mean()


def balance_loss(gate: Gate, routing: Routing, valid_T: Tensor | None = None) -> Tensor:
    """E sum_e f_e P_e (GShard; Switch Transformer, equations 4 to 6), for any number of experts per token.

    f_e: expert e's share of the routed pairs, without gradient. P_e: mean over tokens of its share of the soft
    gates, which are softmax(logits) for ``topk`` and sigma(score - G), normalised over experts, for ``topany``.
    1 where both are even over the E active experts; up to E where one expert takes all.
    """
    active = gate.active_experts
    mask_TE, score_TE = routing.mask_TE[:, active], routing.score_TE[:, active]
    if valid_T is not None:
        mask_TE, score_TE = mask_TE[valid_T], score_TE[valid_T]
    if gate.threshold is None:
        soft_TE = score_TE.softmax(-1)
    else:
        open_TE = torch.sigmoid(score_TE - gate.threshold.float()[active])
        soft_TE = open_TE / open_TE.sum(-1, keepdim=True)
    count_E = mask_TE.sum(0).float()
    share_E = count_E / count_E.sum().clamp(min=1.0)
    return count_E.numel() * (share_E * soft_TE.mean(0)).sum()
