"""Losses on the gate's decisions (Algorithm 1; ARIA's z-loss)."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import MoEConfig
from .gate import Gate, Routing


def z_loss(routing: Routing, valid_T: Tensor | None = None) -> Tensor:
    """mean(logsumexp(logits)^2) over tokens: keeps router logits small (ST-MoE; ARIA moe_lm.py)."""
    value_T = torch.logsumexp(routing.z_logits_TE, dim=-1).square()
    return value_T.mean() if valid_T is None else value_T[valid_T].mean()


def task_dependent_loss(
    gate: Gate, routing: Routing, type_T: Tensor, config: MoEConfig, valid_T: Tensor | None = None
) -> Tensor:
    """lambda_1 sum_e (A_e / sum A - N_e / sum N)^2 + lambda_2 sum_e |W_e|_2  (Algorithm 1).

    A_e: what history would route to expert e of this batch: its rate for each token type times the tokens of
    that type here, detached. N_e: tokens routed to e, through the straight-through gate, so that the loss has a
    gradient (with integer counts it has none); tokens that fell back count, without gradient.
    """
    routed_TE = routing.gate_TE + (routing.mask_TE & routing.fallback_T[:, None])
    if valid_T is not None:
        routed_TE, type_T = routed_TE[valid_T], type_T[valid_T]
    now_E = routed_TE.sum(0)
    history_E = gate.activation_rates[type_T].sum(0)
    loss = gate.weight.float()[gate.active_experts].norm(dim=-1).sum() * config.norm_loss
    if float(history_E.sum()) > 0:
        drift_E = history_E / history_E.sum() - now_E / now_E.sum().clamp(min=1.0)
        loss = loss + config.task_loss * drift_E.square().sum()
    return loss
