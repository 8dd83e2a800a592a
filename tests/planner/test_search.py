"""What makes a plan fit is found by trying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from timeexpert.parallel import Degrees
from timeexpert.planner import Cluster, Layout, StageModel, cheapest_changes, make_plan, sweep
from timeexpert.planner.search import smallest_cluster

BIG = Layout(degrees=Degrees(1, 16, 8), micro_batch=8, accumulate=2, gradient_checkpointing=True)


def test_the_fewest_changes_that_fit_come_first(sft: StageModel, cluster: Callable[..., Cluster]):
    plan = make_plan(sft, cluster(2, 8), BIG)
    assert not plan.fits and plan.limit == "memory"
    found = cheapest_changes(plan)
    assert found and all(change.plan.fits for change in found)
    assert [len(change.words) for change in found] == sorted(len(change.words) for change in found)
    assert {change.plan.layout.videos_per_step for change in found} == {plan.layout.videos_per_step}
    assert found[0].words[0].startswith("stages.sft.batch_videos=")


def test_a_change_is_named_as_the_command_line_takes_it(sft: StageModel, cluster: Callable[..., Cluster]):
    layout = replace(BIG, micro_batch=1, accumulate=1, gradient_checkpointing=False)
    words = {word for change in cheapest_changes(make_plan(sft, cluster(2, 8), layout), 50) for word in change.words}
    assert "train.gradient_checkpointing=true" in words
    assert any(word.startswith("parallel.shard=") for word in words)


def test_where_nothing_fits_more_nodes_are_tried(sft: StageModel, cluster: Callable[..., Cluster]):
    small = cluster(1, 2, reserve_gib=60.0)
    plan = make_plan(sft, small, replace(BIG, degrees=Degrees(1, 2, 2), micro_batch=1, accumulate=1))
    assert cheapest_changes(plan) == []
    found = smallest_cluster(plan)
    assert found is None or (found.fits and found.cluster.nodes > 1)


def test_the_sweep_keeps_the_videos_per_step_while_it_can(sft: StageModel, cluster: Callable[..., Cluster]):
    plans = sweep(sft, cluster(2, 8), 1024)
    assert [plan.layout.world for plan in plans] == [2**n for n in range(11)]
    for plan in plans:
        assert plan.layout.videos_per_step == max(256, plan.layout.world)
        assert plan.cluster.world == plan.layout.world
    fitting = [plan.tokens_per_s for plan in plans if plan.fits]
    assert fitting == sorted(fitting)
