"""The task-aware top-any gate in one pass: who computes each token (Algorithm 1 of the paper).

T tokens, D model dim, E expert slots, A token types, B blocks of tokens. Per token x of type t and expert e
    s = scale * cos(x, W_e)        task = (s + alpha * A[t, e]) / (1 + alpha)
    accepted where e is active and task > threshold_e
and a token that nobody accepts goes to one expert or to none, as ``fallback`` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from . import reference
from .backend import Fallback, KernelError, StraightThrough, use_triton, without_autocast
from .permutation import Permutation, permute

MAX_EXPERTS = 256  # a block of tokens keeps its scores of every expert in registers


@dataclass(frozen=True)
class GateOutput:
    """What the gate decided, in float32 (float64 where x is).

    ``score_TE``: s. ``task_TE``: s with history. ``gate_TE``: 1 where accepted, else 0. These three are differentiable
    in x, weight, threshold and scale; behind ``gate_TE`` stands the straight-through gradient of
    sigmoid(task) - sigmoid(threshold), for the accepted pairs (``selected``) or for all active ones (``all``).
    ``mask_TE`` bool: who computes whom, fallback included. ``fallback_T`` bool: nobody accepted the token.
    ``flipped_T``: the share of the token's decisions that history changed. ``counts``: tokens per (block, expert) and
    experts per token, where a kernel counted them: ``permute`` takes them.
    """

    score_TE: Tensor
    task_TE: Tensor
    gate_TE: Tensor
    mask_TE: Tensor
    fallback_T: Tensor
    flipped_T: Tensor
    counts: tuple[Tensor, Tensor] | None = None

    @property
    def tokens_per_expert_E(self) -> Tensor:
        """(E,) int64."""
        return self.mask_TE.sum(0) if self.counts is None else self.counts[0].sum(0)

    def permute(self, *, backend: str = "auto") -> Permutation:
        """The routed pairs, sorted by expert."""
        return permute(self.mask_TE, counts=self.counts, backend=backend)

    def pair_weights(self, permutation: Permutation) -> Tensor:
        """(P,): 1 / (number of the token's experts), with the straight-through gradient; a fallback has none."""
        soft_TE = torch.where(self.fallback_T[:, None], self.mask_TE.to(self.gate_TE.dtype), self.gate_TE)
        return permutation.at_pairs(soft_TE) * permutation.mean_weights().to(soft_TE.dtype)


def gate(
    x_TD: Tensor,
    weight_ED: Tensor,
    threshold_E: Tensor,
    rates_AE: Tensor,
    type_T: Tensor,
    active_E: Tensor,
    *,
    scale: float | Tensor = 1.0,
    alpha: float | Tensor = 0.0,
    fallback: Fallback = "top1",
    straight_through: StraightThrough = "selected",
    backend: str = "auto",
) -> GateOutput:
    """Route tokens ``x_TD`` (T, D).

    ``weight_ED``: a row per expert. ``rates_AE``: A[t, e], the share of the tokens of type t that used e, without
    gradient. ``type_T`` int64 in [0, A). ``active_E`` bool. ``scale`` (a temperature; differentiable if a tensor) and
    ``alpha`` are numbers or tensors of one element. ``fallback``: ``top1`` the best score, ``least_utilised`` the
    lowest sum of rates over types, ``skip`` none. Arithmetic is in float32 whatever the types: rounding to bf16 would
    move tokens across thresholds. KernelError: impossible settings or shapes. A type outside [0, A) is an error of the
    device (on a CPU a RuntimeError or IndexError).
    """
    _check(x_TD, weight_ED, threshold_E, rates_AE, type_T, active_E, fallback, straight_through)
    scale, alpha = (
        value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float32, device=x_TD.device)
        for value in (scale, alpha)
    )
    if scale.numel() != 1 or alpha.numel() != 1:
        raise KernelError(
            f"gate: scale has shape {tuple(scale.shape)} and alpha {tuple(alpha.shape)}; each must be one number."
        )
    triton = use_triton(backend, x_TD.device, x_TD.dtype)
    if triton and weight_ED.shape[0] > MAX_EXPERTS:
        if backend == "triton":
            raise KernelError(
                f"gate: {weight_ED.shape[0]} expert slots; the triton kernel takes up to {MAX_EXPERTS}. "
                "Use backend 'auto' or 'torch'."
            )
        triton = False
    args = (x_TD, weight_ED, threshold_E, rates_AE, type_T, active_E, scale, alpha, fallback, straight_through)
    with without_autocast(x_TD.device):
        if not triton:
            return GateOutput(*reference.gate(*args))
        from . import triton_gate

        score, task, gate_, mask, none, flipped, block_counts, count, _, _ = triton_gate.gate(*args)
        return GateOutput(score, task, gate_, mask, none, flipped, (block_counts, count))


def _check(
    x_TD: Tensor,
    weight_ED: Tensor,
    threshold_E: Tensor,
    rates_AE: Tensor,
    type_T: Tensor,
    active_E: Tensor,
    fallback: str,
    straight_through: str,
) -> None:
    if fallback not in get_args(Fallback):
        raise KernelError(f"gate: fallback ({fallback!r}) must be one of {', '.join(get_args(Fallback))}.")
    if straight_through not in get_args(StraightThrough):
        choices = ", ".join(get_args(StraightThrough))
        raise KernelError(f"gate: straight_through ({straight_through!r}) must be one of {choices}.")
    if x_TD.dim() != 2 or weight_ED.dim() != 2 or x_TD.shape[1] != weight_ED.shape[1]:
        raise KernelError(
            f"gate: x {tuple(x_TD.shape)} and weight {tuple(weight_ED.shape)} do not fit together; they must be "
            "(tokens, D) and (experts, D)."
        )
    experts = (weight_ED.shape[0],)
    for name, value, wanted in (
        ("threshold", threshold_E.shape, experts),
        ("active", active_E.shape, experts),
        ("rates", rates_AE.shape[1:], experts),
        ("type", type_T.shape, (x_TD.shape[0],)),
    ):
        if tuple(value) != wanted:
            raise KernelError(f"gate: {name} has shape {tuple(value)}; for these x and weight it must be {wanted}.")
    if type_T.dtype != torch.int64 or active_E.dtype != torch.bool:
        raise KernelError(
            f"gate: type is {type_T.dtype} and active {active_E.dtype}; they must be torch.int64 and torch.bool."
        )
