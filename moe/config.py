"""Settings of the mixture-of-experts layers. docs/experts.md explains every key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MAX_SCALE = 100.0  # of a learned logit scale, as CLIP and DynMoE clamp theirs


def _check(config: object, name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} ({getattr(config, name)}) {rule}.")


@dataclass(frozen=True, kw_only=True)
class AdaptiveConfig:
    """When experts are removed and added (Algorithm 1's update; see ``timeexpert.moe.adaptive``).

    ``threshold``: of an added expert; ``midway`` between the mean cosines of the unassigned tokens and of all
    tokens, ``zero`` as printed. ``copy_from``: where its MLP comes from: the active expert with the most
    ``similar`` row, or the first ``expert_dim`` columns of the ``shared`` experts.
    """

    enabled: bool = False
    update_every: int = 300  # optimizer steps of a stage between two decisions
    record_steps: int | None = None  # the last of them are counted; None: all
    tau_min: float = 1e-3  # an expert with a smaller share of the counted tokens is removed
    min_active: int | None = None  # experts that a layer keeps; None: top_k
    add_share: float = 0.05  # an expert is added where at least this share of the answer tokens was unassigned
    threshold: Literal["midway", "zero"] = "midway"
    copy_from: Literal["similar", "shared"] = "similar"
    noise: float = 0.01  # on the copied MLP, in standard deviations of its weights

    def __post_init__(self) -> None:
        _check(self, "update_every", self.update_every >= 1, "must be 1 or more")
        recorded = self.record_steps is None or 1 <= self.record_steps <= self.update_every
        _check(self, "record_steps", recorded, f"must be 1 to update_every ({self.update_every})")
        _check(self, "tau_min", 0 <= self.tau_min <= 1, "must be between 0 and 1")
        _check(self, "min_active", self.min_active is None or self.min_active >= 1, "must be 1 or more")
        _check(self, "add_share", 0 <= self.add_share <= 1, "must be between 0 and 1")
        _check(self, "noise", self.noise >= 0, "must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """Gate, experts and losses (paper, Algorithm 1; readings of its gaps are switches here).

    ``router``: ``topany`` keeps every expert whose task-aware score passes its threshold, ``topk`` is ARIA's
    router. ``tracker``: the activation rates are a moving average (``ema``), or those of the last whole
    ``window`` of ``tracker_window`` optimizer steps. ``threshold_update``: thresholds follow their ``gradient``
    (the paper's), and with ``mean_k`` are shifted together besides, so that a token keeps ``top_k`` experts on
    average; with ``balance`` each one keeps its expert's share at top_k / active experts, without gradient.
    ``fallback``: what a token gets when no expert passes: ``least_utilised`` (Algorithm 1), ``top1`` (DynMoE at
    inference) or ``skip`` (shared experts only). ``straight_through``: whether the threshold's gradient reaches
    only the ``selected`` experts (DynMoE) or ``all`` of them. ``task_loss_counts``: the load in the
    task-dependent loss, through the straight-through gate or as whole numbers without gradient (``printed``).
    """

    router: Literal["topany", "topk"] = "topany"
    num_experts: int = 64
    max_experts: int | None = None  # slots allocated; None: num_experts
    expert_dim: int = 1664
    num_shared_experts: int = 2
    top_k: int = 6  # topk's k; the mean k that topany's thresholds are calibrated to
    alpha: float = 0.01  # weight of the activation rate A[t, e] beside the cosine
    alpha_warmup_steps: int = 0  # optimizer steps in which alpha grows from 0
    logit_scale: float = 1.0  # on the cosine
    learn_scale: bool = False  # logit_scale is where each layer's own scale starts
    tracker: Literal["ema", "window"] = "ema"
    rate_decay: float = 0.99  # of the moving average, per optimizer step
    tracker_window: int = 100
    threshold_update: Literal["gradient", "mean_k", "balance"] = "gradient"
    threshold_rate: float = 0.5  # how much of the measured error mean_k and balance mend per optimizer step
    fallback: Literal["least_utilised", "top1", "skip"] = "top1"
    straight_through: Literal["selected", "all"] = "selected"
    z_loss: float = 1e-5
    task_loss: float = 1e-3  # lambda_1: pulls this batch's load towards each expert's history
    task_loss_counts: Literal["straight_through", "printed"] = "straight_through"
    norm_loss: float = 1e-3  # lambda_2: on the norms of the gate's rows
    diversity_loss: float = 0.0  # DynMoE: on cosines between the gate's rows
    simplicity_loss: float = 0.0  # DynMoE: on the mean norm of the gate's rows
    balance_loss: float = 0.0  # Switch, GShard: on uneven load
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)
    backend: Literal["auto", "fused", "grouped_mm", "triton", "loop"] = "auto"

    def __post_init__(self) -> None:
        for name in ("num_experts", "expert_dim", "top_k", "tracker_window"):
            _check(self, name, getattr(self, name) >= 1, "must be 1 or more")
        losses = ("z_loss", "task_loss", "norm_loss", "diversity_loss", "simplicity_loss", "balance_loss")
        for name in ("num_shared_experts", "alpha", "alpha_warmup_steps", "threshold_rate", *losses):
            _check(self, name, getattr(self, name) >= 0, "must be 0 or more")
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k ({self.top_k}) is more than num_experts ({self.num_experts}).")
        if self.max_experts is not None and self.max_experts < self.num_experts:
            raise ValueError(f"max_experts ({self.max_experts}) is less than num_experts ({self.num_experts}).")
        _check(self, "rate_decay", 0 <= self.rate_decay < 1, "must be in [0, 1)")
        _check(self, "logit_scale", self.logit_scale > 0, "must be positive")
        learnable = not self.learn_scale or 1 <= self.logit_scale <= MAX_SCALE
        _check(self, "logit_scale", learnable, f"must be 1 to {MAX_SCALE:g}, where learn_scale keeps it")
        self._check_router()

    def _check_router(self) -> None:
        """What ``topk`` does not have is refused, not ignored. (``alpha`` and the task loss have defaults.)"""
        if self.router == "topk":
            has = {
                "learn_scale": self.learn_scale,
                "threshold_update": self.threshold_update != "gradient",
                "adaptive.enabled": self.adaptive.enabled,
            }
            for name, is_set in has.items():
                if is_set:
                    raise ValueError(
                        f"{name} is for router topany; topk has no scale, thresholds or unassigned tokens."
                    )
        if self.adaptive.enabled:
            least = self.adaptive.min_active
            if least is not None and least > self.num_experts:
                raise ValueError(f"adaptive.min_active ({least}) is more than num_experts ({self.num_experts}).")
            if self.adaptive.copy_from == "shared" and not self.num_shared_experts:
                raise ValueError("adaptive.copy_from is shared, but num_shared_experts is 0. Use similar.")

    @property
    def slots(self) -> int:
        """Expert slots that are allocated, active or not."""
        return self.max_experts or self.num_experts
