"""The planned collectives against those that real ranks call in one optimizer step."""

from __future__ import annotations

import pytest

from scripts.check_planner import Case
from scripts.check_wire import planned, steps
from tests.ranks import run_ranks
from timeexpert.parallel import ParallelConfig

CASE = Case(videos=2, frames=2, text=32, layers=2, experts=4, accumulate=2, checkpointing=True)


@pytest.mark.parametrize(
    ("ranks", "parallel"),
    [(2, ParallelConfig(expert=2)), (2, ParallelConfig(expert=1)), (4, ParallelConfig(data=2, shard=2, expert=2))],
    ids=["experts over two", "sharded over two", "two by two"],
)
def test_ranks_call_the_planned_collectives(ranks: int, parallel: ParallelConfig) -> None:
    recorded = run_ranks(ranks, steps, CASE, parallel, 1)
    plan = planned(CASE, parallel, ranks, sum(step.experts_per_token for step in recorded) / ranks)
    for kind in ("all_gather", "reduce_scatter", "all_reduce", "all_to_all"):
        expected = [c for c in plan.traffic if c.kind == kind]
        called = [step.payloads.get(kind, []) for step in recorded]
        assert {len(calls) for calls in called} == {sum(c.calls for c in expected)}, kind
        mean = sum(map(sum, called)) / ranks
        assert sum(c.calls * c.payload for c in expected) == pytest.approx(mean, rel=0.03), kind
    exchanged, sent = (
        sum(step.exchanged for step in recorded) / ranks,
        sum(c.sent for c in plan.traffic if c.kind == "all_to_all"),
    )
    assert sent == pytest.approx(exchanged, rel=0.15)
