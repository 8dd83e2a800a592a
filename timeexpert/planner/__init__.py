"""What a training run costs on a cluster: memory per GPU, work, traffic, time; docs/planner.md explains the model."""

from .hardware import GPUS, Cluster, Gpu, PlanError, find_gpu
from .layout import Layout
from .plan import Plan, StageModel, make_plan, stage_model
from .search import cheapest_changes, sweep

__all__ = [
    "GPUS",
    "Cluster",
    "Gpu",
    "Layout",
    "Plan",
    "PlanError",
    "StageModel",
    "cheapest_changes",
    "find_gpu",
    "make_plan",
    "stage_model",
    "sweep",
]
