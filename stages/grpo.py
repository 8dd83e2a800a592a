"""GRPO: advantages within a group of answers to one question, and the loss of their tokens.

Shao et al., "DeepSeekMath" (2024), equations 3 and 4, as MUSEG uses it (``trainer.py``) and TRL's ``GRPOTrainer``
computes it with ``loss_type="grpo"``. Q questions, G answers of each, B = Q * G answers, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STD_EPSILON = 1e-4


def group_advantages(rewards_QG: Tensor) -> Tensor:
    """(Q, G) rewards -> (Q, G): each less its group's mean, over the group's standard deviation (G - 1) plus 1e-4."""
    mean, std = rewards_QG.mean(1, keepdim=True), rewards_QG.std(1, keepdim=True)
    return (rewards_QG - mean) / (std + STD_EPSILON)


@dataclass(frozen=True)
class GrpoTerms:
    """Per answer (B,), each the mean over its tokens. ``loss`` is ``policy + beta * kl``; ``clipped``: share of the
    tokens whose ratio was cut."""

    loss: Tensor
    policy: Tensor
    kl: Tensor
    clipped: Tensor


def grpo_terms(
    logprobs_BT: Tensor,
    mask_BT: Tensor,
    advantages_B: Tensor,
    *,
    old_BT: Tensor | None = None,
    reference_BT: Tensor | None = None,
    beta: float = 0.0,
    epsilon: float | None = None,
) -> GrpoTerms:
    """The loss of answers whose tokens have ``logprobs_BT`` now; ``mask_BT`` is true where there is a token.

    ``old_BT``: log-probabilities when the answers were written (None: now, with a gradient). ``epsilon``: the ratio of
    now to then is cut to 1 - epsilon ... 1 + epsilon where that lowers what is gained; None never cuts. KL to
    ``reference_BT`` by the k3 estimator, exp(d) - d - 1 with d = reference - now, which is never negative.
    """
    old_BT = logprobs_BT.detach() if old_BT is None else old_BT
    ratio, gain = torch.exp(logprobs_BT - old_BT), advantages_B[:, None]
    policy = -ratio * gain
    clipped = torch.zeros_like(policy)
    if epsilon is not None:
        cut = -ratio.clamp(1 - epsilon, 1 + epsilon) * gain
        clipped = (cut > policy).to(policy.dtype)
        policy = torch.maximum(policy, cut)
    kl = torch.zeros_like(policy)
    if reference_BT is not None:
        difference = reference_BT - logprobs_BT
        kl = torch.exp(difference) - difference - 1
    tokens = mask_BT.sum(1).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return values.masked_fill(~mask_BT, 0.0).sum(1) / tokens

    return GrpoTerms(mean(policy + beta * kl), mean(policy), mean(kl), mean(clipped))
