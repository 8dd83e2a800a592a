"""Optimizer and schedule: AdamW, linear warm-up, cosine decay."""

from __future__ import annotations

import math

import torch
from torch import nn

from .config import PARTS, StageConfig


def freeze(model: nn.Module, stage: StageConfig) -> list[str]:
    """Let only the stage's parts train; returns the names of their parameters."""
    prefixes = tuple(prefix for part in stage.parts for prefix in PARTS[part])
    trained = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(prefixes))
        if parameter.requires_grad:
            trained.append(name)
    return trained


def build_optimizer(model: nn.Module, stage: StageConfig) -> torch.optim.AdamW:
    """AdamW over what trains; norms, biases and gate thresholds are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": stage.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, stage.beta2))


def learning_rate(stage: StageConfig, step: int) -> float:
    """Rate of optimizer step ``step`` (0-based): linear from 0 over the warm-up, then cosine to the final ratio."""
    warmup = math.ceil(stage.warmup_ratio * stage.steps)
    if step < warmup:
        return stage.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, stage.steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return stage.lr * (stage.final_lr_ratio + (1 - stage.final_lr_ratio) * cosine)
