"""Mixture of experts: who computes each token, how, and what it costs."""

if __name__ != "timeexpert.moe":
    raise ImportError("import timeexpert.moe, not moe")

from .adaptive import AdaptiveExperts, ExpertEdit
from .config import AdaptiveConfig, MoEConfig
from .experts import Experts, SharedExperts
from .gate import Gate, Routing, TokenRole
from .layer import MoELayer
from .losses import auxiliary_losses, task_dependent_loss, z_loss
from .statistics import ExpertStatistics, LayerStatistics

__all__ = [
    "AdaptiveConfig",
    "AdaptiveExperts",
    "ExpertEdit",
    "ExpertStatistics",
    "Experts",
    "Gate",
    "LayerStatistics",
    "MoEConfig",
    "MoELayer",
    "Routing",
    "SharedExperts",
    "TokenRole",
    "auxiliary_losses",
    "task_dependent_loss",
    "z_loss",
]
