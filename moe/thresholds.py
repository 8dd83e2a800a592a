"""Thresholds that follow the scores, so that a token keeps as many experts as it should while gates drift.

With the paper's gradient alone nothing holds the mean number of experts: rows and inputs move, and after some
hundred steps at a tiny model's rates most tokens pass nobody's threshold (docs/log.md, "Gates").
"""

from __future__ import annotations

import torch
from torch import Tensor

from .gate import Gate


@torch.no_grad()
def hold_thresholds(gate: Gate, accepted_E: Tensor, tokens: Tensor, scores_2E: Tensor) -> None:
    """Move a trained gate's thresholds towards the share of tokens that experts are meant to accept.

    ``accepted_E`` (E,): tokens of this optimizer step that passed each threshold, of ``tokens``; ``scores_2E``: sums
    of their scores and squared scores. The target is q = top_k / active experts for each expert, and

        G_e <- G_e + threshold_rate * sd_e * (accepted_e / tokens - q)

    is a step of stochastic approximation (Robbins and Monro) towards the (1 - q) quantile of e's scores, whose
    spread sd_e makes the rate free of scale; with a sign in place of the difference it would be the update of
    DeepSeek-V3's expert bias (auxiliary-loss-free load balancing). ``balance`` moves each expert by its own
    error, ``mean_k`` all experts of the layer by their mean error and mean spread: then only the mean number of
    accepted experts is held, and which of them takes more is left to the gradient. ``gradient`` does nothing here.
    """
    update = gate.config.threshold_update
    if update == "gradient" or gate.threshold is None or not gate.threshold.requires_grad or not bool(tokens > 0):
        return
    mean_2E = scores_2E / tokens
    spread_E = (mean_2E[1] - mean_2E[0].square()).clamp(min=0.0).sqrt()
    error_E, active = accepted_E / tokens - gate.target_share, gate.active_experts
    if update == "mean_k":
        error_E, spread_E = error_E[active].mean(), spread_E[active].mean()
    gate.threshold.add_(gate.config.threshold_rate * spread_E * error_E * active)
