"""Mixture of experts: who computes each token, how, and what it costs."""

if __name__ != "timeexpert.moe":
    raise ImportError("import timeexpert.moe, not moe")

from .adaptive import AdaptiveExperts
from .config import MoEConfig
from .experts import Experts
from .gate import Gate, Routing, TokenRole
from .layer import MoELayer
from .losses import auxiliary_losses
from .statistics import ExpertStatistics, LayerStatistics

__all__ = [
    "AdaptiveExperts",
    "ExpertStatistics",
    "Experts",
    "Gate",
    "LayerStatistics",
    "MoEConfig",
    "MoELayer",
    "Routing",
    "TokenRole",
    "auxiliary_losses",
]
