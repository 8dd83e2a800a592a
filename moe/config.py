"""Settings of one mixture-of-experts layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """Gate, experts and losses (FACTS of the paper: Algorithm 1; readings of its gaps are switches here).

    ``router``: ``topany`` keeps every expert whose task-aware score passes its learned threshold, ``topk`` is
    ARIA's router. ``fallback``: what a token gets when no expert passes: ``least_utilised`` (Algorithm 1),
    ``top1`` (DynMoE at inference) or ``skip`` (shared experts only). ``straight_through``: whether the
    threshold's gradient reaches only the ``selected`` experts (DynMoE) or ``all`` of them.
    """

    router: Literal["topany", "topk"] = "topany"
    num_experts: int = 64
    max_experts: int | None = None  # slots allocated; None: num_experts
    expert_dim: int = 1664
    num_shared_experts: int = 2
    top_k: int = 6  # topk's k; the mean k that topany's thresholds are calibrated to
    alpha: float = 0.01  # weight of the activation rate A[t, e] beside the cosine; see A7.3
    logit_scale: float = 1.0  # on the cosine
    rate_decay: float = 0.99  # of the moving average A
    fallback: Literal["least_utilised", "top1", "skip"] = "top1"
    straight_through: Literal["selected", "all"] = "selected"
    z_loss: float = 1e-5
    task_loss: float = 1e-3  # lambda_1: pulls this batch's load towards each expert's history
    norm_loss: float = 1e-3  # lambda_2: on the norms of the gate's rows
    backend: Literal["auto", "loop", "grouped_mm"] = "auto"

    def __post_init__(self) -> None:
        for name in ("num_experts", "expert_dim", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be 1 or more.")
        if self.num_shared_experts < 0:
            raise ValueError(f"num_shared_experts ({self.num_shared_experts}) must be 0 or more.")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k ({self.top_k}) is more than num_experts ({self.num_experts}).")
        if self.max_experts is not None and self.max_experts < self.num_experts:
            raise ValueError(f"max_experts ({self.max_experts}) is less than num_experts ({self.num_experts}).")
        if not 0 <= self.rate_decay < 1:
            raise ValueError(f"rate_decay ({self.rate_decay}) must be in [0, 1).")
        if self.alpha < 0:
            raise ValueError(f"alpha ({self.alpha}) must be 0 or more.")

    @property
    def slots(self) -> int:
        """Expert slots that are allocated, active or not."""
        return self.max_experts or self.num_experts
