"""The same batches make the same steps, however many ranks share them, and whatever of them cannot be read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.ranks import run_ranks
from timeexpert.data.batch import VideoBatch
from timeexpert.data.loader import PlannedLoader
from timeexpert.data.mixture import BatchPlanner, Mixture, SampleRef
from timeexpert.parallel import OneProcess, ParallelConfig, start
from timeexpert.stages.feed import Feed, FeedError

UNREADABLE = {1, 6, 7, 13}  # by their place in the stream


def load(refs: list[SampleRef]) -> VideoBatch | list[tuple[str, str]]:
    serial = refs[0].serial
    if serial in UNREADABLE:
        return [(f"s{serial}", "cannot be read")]
    row = torch.full((1, 2 + serial % 3), serial)
    return VideoBatch(row, row >= 0, row, torch.empty(0, 3, 2, 2), sample_ids=(f"s{serial}",))


def feed_of(engine: OneProcess, dropped: list[str]) -> Feed:
    planner = BatchPlanner(Mixture([50], [1.0], 0), lambda ref: 1, None, 1)
    loader = PlannedLoader(planner, load, rank=engine.rank, world_size=engine.world_size)

    def note(rows: tuple[tuple[str, str], ...]) -> None:
        dropped.extend(sample for sample, _ in rows)

    return Feed(loader, engine, lambda batch: {"text": float(batch.input_ids.numel())}, note, "sft")


def steps(engine: OneProcess, count: int) -> dict[str, Any]:
    dropped: list[str] = []
    feed = feed_of(engine, dropped)
    everywhere = [batch.sample_ids[0] for batch in feed.take_all(3)]
    taken = []
    for _ in range(count):
        step = feed.take(4)
        consumed = feed.state["mixture"]["consumed"]
        counted = (step.label_counts, step.tokens, consumed, list(dropped))
        taken.append((step.sample_ids, [b.sample_ids[0] for b in step.micro], counted))
    return {"everywhere": everywhere, "steps": taken}


def on_ranks() -> dict[str, Any]:
    """A job."""
    with start(ParallelConfig(), 1, "cpu") as (engine, _):
        return steps(engine, 4)


@pytest.mark.parametrize("world_size", [2, 4])
def test_steps_are_the_same_for_every_number_of_ranks(world_size: int) -> None:
    alone = steps(OneProcess(), 4)
    assert alone["everywhere"] == ["s0", "s2", "s3"]
    assert [ids for ids, _, _ in alone["steps"]][:2] == [["s4", "s5", "s8", "s9"], ["s10", "s11", "s12", "s14"]]
    ranks = run_ranks(world_size, on_ranks)
    for step, (ids, _, counted) in enumerate(alone["steps"]):
        for found in ranks:
            assert found["everywhere"] == alone["everywhere"]
            assert found["steps"][step][0] == ids and found["steps"][step][2] == counted
            assert len(found["steps"][step][1]) == 4 // world_size  # an equal share
        assert sorted(i for found in ranks for i in found["steps"][step][1]) == sorted(ids)  # nothing twice


def test_a_state_in_the_middle_goes_on_with_exactly_the_next_batch() -> None:
    dropped: list[str] = []
    feed = feed_of(OneProcess(), dropped)
    feed.take(5)
    again = feed_of(OneProcess(), dropped)
    again.load_state_dict(feed.state)
    assert again.take(1).sample_ids == feed.take(1).sample_ids == ["s8"]
    assert dropped == ["s1", "s6", "s7", "s6", "s7"]  # those behind the state are met again


def test_nothing_readable_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.stages.test_feed.UNREADABLE", range(10**6))
    dropped: list[str] = []
    words = "stage 'sft': 100 batches in a row held nothing readable; the last reason: cannot be read. Run timeexpert"
    with pytest.raises(FeedError, match=words):
        feed_of(OneProcess(), dropped).take(4)
    assert len(dropped) == 100
