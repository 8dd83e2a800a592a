"""Mixture of experts: who computes each token, how, and what it costs."""

if __name__ != "timeexpert.moe":
    raise ImportError("import timeexpert.moe, not moe")

from .config import MoEConfig
from .experts import Experts, SharedExperts
from .gate import Gate, Routing
from .layer import MoELayer
from .losses import task_dependent_loss, z_loss
from .statistics import ExpertStatistics

__all__ = [
    "ExpertStatistics",
    "Experts",
    "Gate",
    "MoEConfig",
    "MoELayer",
    "Routing",
    "SharedExperts",
    "task_dependent_loss",
    "z_loss",
]
