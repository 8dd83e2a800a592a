"""Optimizers and schedule: AdamW (and Muon, and SGD), linear warm-up, cosine or linear decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate

from timeexpert.families import family_of
from timeexpert.moe import MoELayer
from timeexpert.moe.rows import scale_rows

from .config import StageConfig
from .muon import Muon


def freeze(model: nn.Module, stage: StageConfig) -> list[str]:
    """Let only the stage's parts train; returns the names of their parameters."""
    part_of = family_of(model).part_of
    trained = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in stage.parts)
        if parameter.requires_grad:
            trained.append(name)
    return trained


def build_optimizers(model: nn.Module, stage: StageConfig) -> list[torch.optim.Optimizer]:
    """AdamW over what trains; norms, biases, gates and slots without an expert are not decayed.

    With ``optimizer: muon`` the decoder's matrices (attention, shared experts) go to torch's Muon instead, at
    ``matrix_lr`` (comparable to AdamW's: ``match_rms_adamw``). The experts are stacked in tensors of three
    dimensions, which torch's Muon does not take; they stay with AdamW, as do embeddings and heads. ``sgd`` is torch's
    SGD without momentum in AdamW's place.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = []
    if stage.optimizer == "muon":
        is_matrix = family_of(model).is_matrix
        matrices = [p for n, p in named if is_matrix(n) and p.ndim == 2]
    gates = [p for n, p in named if ".gate." in n]
    slots = {
        p: layer.gate for layer in model.modules() if isinstance(layer, MoELayer) for p in layer.experts.parameters()
    }
    experts = [p for _, p in named if p in slots]
    taken = {id(p) for p in (*matrices, *gates, *experts)}
    rest = [p for _, p in named if id(p) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": stage.weight_decay, "peak": stage.lr},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0, "peak": stage.lr},
        # a gate reads the direction of its rows, not their length: nothing to decay
        {"params": gates, "weight_decay": 0.0, "peak": stage.gate_lr or stage.lr},
        {
            "params": experts,
            "weight_decay": 0.0,
            "active_decay": stage.weight_decay,
            "gates": [slots[p] for p in experts],
            "peak": stage.lr,
        },
    ]
    groups = [group for group in groups if group["params"]]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(groups, lr=stage.lr)
        if stage.optimizer == "sgd"
        else torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, stage.beta2))
    ]
    optimizers[0].register_step_pre_hook(_decay_active)
    if matrices:
        peak = stage.matrix_lr or stage.lr
        muon: list[dict[str, Any]] = [{"params": matrices, "weight_decay": stage.weight_decay, "peak": peak}]
        optimizers.append(Muon(muon, lr=peak))
        optimizers[1].register_step_pre_hook(_gather_matrices)
        optimizers[1].register_step_post_hook(_shard_matrices)
    return optimizers


@torch.no_grad()
def _decay_active(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """AdamW's weight decay for stacked experts: a slot without an expert keeps its weights."""
    for group in optimizer.param_groups:
        for stacked, gate in zip(group["params"], group["gates"], strict=True) if group.get("active_decay") else ():
            if stacked.grad is not None:  # else AdamW leaves it alone as well
                scale_rows(stacked, gate.decayed(group["lr"] * group["active_decay"]))


def _gather_matrices(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Sharded gradients and momenta become whole: the orthogonal matrix nearest to one is not found by blocks."""
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        if isinstance(parameter.grad, DTensor):
            parameter.grad = _whole_on_each_rank(parameter.grad)
            state = optimizer.state[parameter]
            if "momentum_buffer" in state:
                state["momentum_buffer"] = _whole_on_each_rank(state["momentum_buffer"])


def _shard_matrices(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for parameter, state in optimizer.state.items():
        if isinstance(parameter, DTensor) and "momentum_buffer" in state:
            # cloned: a view of the block would keep all of it
            state["momentum_buffer"] = state["momentum_buffer"].redistribute(placements=parameter.placements).clone()


def _whole_on_each_rank(tensor: DTensor) -> DTensor:
    return tensor.redistribute(placements=[Replicate()] * tensor.device_mesh.ndim)


def rate(stage: StageConfig, step: int) -> float:
    """Share of the peak rate at optimizer step ``step`` (0-based): linear warm-up from ``warmup_from`` of it,
    then decay to the final ratio."""
    warmup = math.ceil(stage.warmup_ratio * stage.steps)
    if step < warmup:
        return stage.warmup_from + (1 - stage.warmup_from) * (step + 1) / warmup
    progress = (step - warmup) / max(1, stage.steps - warmup)
    left = 1 - progress if stage.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return stage.final_lr_ratio + (1 - stage.final_lr_ratio) * left


def set_rates(optimizers: Sequence[torch.optim.Optimizer], stage: StageConfig, step: int) -> float:
    """Give every parameter group its rate for ``step``; returns that of ``lr``, which is the one that is logged."""
    share = rate(stage, step)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share
    return stage.lr * share
