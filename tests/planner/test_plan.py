"""One plan: work, times and what binds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from timeexpert.parallel import Degrees
from timeexpert.planner import Cluster, Layout, PlanError, StageModel, find_gpu, make_plan, stage_model
from timeexpert.planner.sizes import ARIA_VOCABULARY
from timeexpert.stages.config import RunConfig

LAYOUT = Layout(degrees=Degrees(1, 16, 8), micro_batch=1, accumulate=4, gradient_checkpointing=True)


def test_a_slow_network_binds(sft: StageModel, cluster: Callable[..., Cluster]):
    fast = make_plan(sft, cluster(2, 8), LAYOUT)
    slow_gpu = find_gpu("h100-80g", {"network_gb_s": 0.5})
    slow = make_plan(sft, replace(cluster(2, 8), gpu=slow_gpu), LAYOUT)
    assert fast.limit == "compute"
    assert slow.limit == "network"
    assert slow.step_s > fast.step_s


def test_half_the_memory_binds(sft: StageModel, cluster: Callable[..., Cluster]):
    plan = make_plan(sft, replace(cluster(2, 8), gpu=find_gpu("a100-40g")), LAYOUT)
    assert not plan.fits
    assert plan.limit == "memory"


def test_what_is_offloaded_must_fit_into_the_nodes_memory(sft: StageModel, cluster: Callable[..., Cluster]):
    layout = replace(LAYOUT, offload=True)
    plan = make_plan(sft, cluster(2, 8), layout)
    total, gates = sft.sizes.total, sft.sizes.gate.weights * sft.sizes.num_layers
    sharded = total.weights + total.trained + total.states - 4 * gates
    assert plan.host_bytes == 4 * (sharded / 2 + 8 * 4 * gates)  # half of it in each node, gates for each GPU
    assert plan.fits
    assert not make_plan(sft, cluster(2, 8, host_memory_gib=150.0), layout).fits


def test_no_step_is_faster_than_its_arithmetic(sft: StageModel, cluster: Callable[..., Cluster]):
    plan = make_plan(sft, cluster(2, 8), LAYOUT)
    assert plan.step_s >= plan.flops_per_step / (989.4e12 * plan.cluster.matmul_efficiency)
    assert 0 < plan.mfu < plan.cluster.matmul_efficiency
    assert plan.tokens_per_s == pytest.approx(16 * 4 * sft.rows.typical / plan.step_s)


def test_longer_rows_take_more_of_everything(aria: RunConfig, cluster: Callable[..., Cluster]):
    short, long = (
        make_plan(stage_model(aria, aria.stages[2], ARIA_VOCABULARY, row_tokens=n), cluster(2, 8), LAYOUT)
        for n in (2048, 4096)
    )
    assert long.peak.total > short.peak.total
    assert long.flops_per_step > short.flops_per_step


def test_rows_hold_their_frames(aria: RunConfig):
    rows = stage_model(aria, aria.stages[2], ARIA_VOCABULARY).rows
    assert (rows.video_tokens, rows.typical, rows.longest) == (1792, 1792 + 256, 4096)
    with pytest.raises(PlanError, match=r"128 frames take 1792 tokens.*no room for a question in 1792"):
        stage_model(aria, aria.stages[2], ARIA_VOCABULARY, row_tokens=1792)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("h100", {}, r"--gpu 'h100' is not one of .*Did you mean 'h100-80g'"),
        ("h100-80g", {"link_gb_s": 0.0}, r"--link-gb-s \(0\) must be more than 0"),
    ],
)
def test_hardware_that_is_not_there_is_refused(name: str, changes: dict[str, float], words: str):
    with pytest.raises(PlanError, match=words):
        find_gpu(name, changes)


def test_assumptions_that_cannot_be_are_refused(cluster: Callable[..., Cluster]):
    with pytest.raises(PlanError, match=r"--reserve-gib \(80\).*79.1 GiB"):
        cluster(1, 1, reserve_gib=80.0)
    with pytest.raises(PlanError, match=r"--nodes \(0\) must be 1 or more"):
        cluster(0, 8)
    with pytest.raises(PlanError, match=r"--matmul-efficiency \(2\) must be above 0, at most 1"):
        cluster(1, 8, matmul_efficiency=2.0)
