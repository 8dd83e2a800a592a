"""The paper's config, its stages, and a cluster of two nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from timeexpert.config import load
from timeexpert.paths import packaged_config
from timeexpert.planner import Cluster, StageModel, find_gpu, stage_model
from timeexpert.planner.sizes import ARIA_VOCABULARY
from timeexpert.stages.config import RunConfig


@pytest.fixture(scope="session")
def aria() -> RunConfig:
    return load(RunConfig, packaged_config("aria"))


@pytest.fixture(scope="session")
def sft(aria: RunConfig) -> StageModel:
    return stage_model(aria, aria.stages[2], ARIA_VOCABULARY)


@pytest.fixture(scope="session")
def cluster() -> Callable[..., Cluster]:
    """``cluster(2, 8)``: nodes and GPUs of each, H100s."""

    def build(nodes: int, gpus_per_node: int, **settings: Any) -> Cluster:
        return Cluster(gpu=find_gpu("h100-80g"), nodes=nodes, gpus_per_node=gpus_per_node, **settings)

    return build
