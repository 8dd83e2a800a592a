"""Bytes on the wire, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from timeexpert.parallel import Degrees
from timeexpert.planner import Cluster, Layout, StageModel, make_plan
from timeexpert.planner.collectives import Collective, Group, groups

NODE = Group(name="g", ranks=8, per_node=8)
TWO_NODES = Group(name="g", ranks=16, per_node=8)


@pytest.mark.parametrize(
    ("kind", "group", "sent", "network"),
    [
        ("all_gather", NODE, 700, 0),
        ("reduce_scatter", NODE, 700, 0),
        ("all_reduce", NODE, 1400, 0),
        ("all_to_all", NODE, 700, 0),
        ("all_gather", TWO_NODES, 750, 750 / 8),  # one of eight ranks sends to the other node
        ("all_to_all", TWO_NODES, 750, 400),  # half of the rows are for the other node
    ],
)
def test_bytes_of_a_collective(kind: str, group: Group, sent: float, network: float):
    collective = Collective(name="c", kind=kind, group=group, calls=1, payload=800)  # type: ignore[arg-type]
    assert collective.sent == sent
    assert collective.network == network
    assert collective.link == sent - network


def test_groups_stand_where_the_engine_puts_them():
    found = groups(Degrees(data=2, shard=16, expert=8), gpus_per_node=8)
    places = {name: (group.ranks, group.per_node) for name, group in found.items()}
    assert places == {
        "world": (32, 8),
        "shard": (16, 8),
        "data": (2, 1),
        "expert": (8, 8),
        "expert_shard": (2, 1),
        "expert_data": (2, 1),
    }


def test_one_gpu_sends_nothing(sft: StageModel, cluster: Callable[..., Cluster]):
    plan = make_plan(sft, cluster(1, 1), Layout(degrees=Degrees(), micro_batch=1, accumulate=1))
    assert plan.traffic == []


def test_every_weight_is_gathered_twice_and_every_gradient_reduced_once(
    sft: StageModel, cluster: Callable[..., Cluster]
):
    layout = Layout(degrees=Degrees(1, 16, 8), micro_batch=2, accumulate=3, gradient_checkpointing=True)
    traffic = {c.name: c for c in make_plan(sft, cluster(2, 8), layout).traffic}
    sizes = sft.sizes
    gathered = traffic["layers: weights"]
    assert (gathered.group.name, gathered.calls, gathered.payload) == ("shard", 3 * 28 * 2, 4 * sizes.layer.weights)
    experts = traffic["experts: gradients"]
    assert (experts.group.name, experts.calls, experts.payload) == (
        "expert_shard",
        3 * 28,
        4 * sizes.experts.weights / 8,
    )
    # rows go and come back: forward, recomputed, backward
    rows = traffic["expert rows"]
    assert (rows.calls, rows.payload) == (3 * 28 * 6, 2 * sft.rows.typical * 6 * 2560 * 2)
    assert traffic["expert counts"].calls == 3 * 28 * 2


def test_copies_of_the_model_add_their_gradients(sft: StageModel, cluster: Callable[..., Cluster]):
    layout = Layout(degrees=Degrees(2, 8, 8), micro_batch=1, accumulate=1)
    traffic = {c.name: c for c in make_plan(sft, cluster(2, 8), layout).traffic}
    copies = traffic["layers: gradients of copies"]
    assert (copies.kind, copies.group.ranks, copies.payload) == ("all_reduce", 2, 4 * sft.sizes.layer.weights / 8)
    assert "experts: weights" not in traffic  # each GPU of a node holds its eight experts whole
    assert traffic["experts: gradients of copies"].payload == 4 * sft.sizes.experts.weights / 8
