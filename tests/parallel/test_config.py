from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from timeexpert.config import ConfigError
from timeexpert.parallel import Degrees, ParallelConfig


def test_without_degrees_one_copy_is_sharded_over_all_ranks_and_experts_stay_in_the_node() -> None:
    assert ParallelConfig().degrees(1, 64) == Degrees(1, 1, 1)
    assert ParallelConfig().degrees(16, 64, ranks_per_node=8) == Degrees(data=1, shard=16, expert=8)
    assert ParallelConfig().degrees(16, 12, ranks_per_node=8) == Degrees(data=1, shard=16, expert=4)  # 12 slots
    assert ParallelConfig(dispatcher="local").degrees(16, 64) == Degrees(data=1, shard=16, expert=1)


def test_the_degree_that_is_left_out_is_what_remains() -> None:
    assert ParallelConfig(data=2, expert=2).degrees(8, 64) == Degrees(data=2, shard=4, expert=2)
    assert ParallelConfig(shard=4, expert=8).degrees(16, 64) == Degrees(data=4, shard=4, expert=8)


@pytest.mark.parametrize(
    ("degrees", "copies", "shards"),
    [
        (Degrees(data=1, shard=16, expert=8), 1, 2),
        (Degrees(data=2, shard=8, expert=4), 2, 2),
        (Degrees(data=4, shard=1, expert=2), 2, 1),  # copies of the model, experts spread over two each
        (Degrees(data=2, shard=2, expert=4), 1, 1),  # the experts' group is wider than the shard group
    ],
)
def test_ranks_with_the_same_experts_share_them_as_far_as_the_shard_group_goes(
    degrees: Degrees, copies: int, shards: int
) -> None:
    assert (degrees.expert_data, degrees.expert_shard) == (copies, shards)
    assert degrees.expert_data * degrees.expert_shard * degrees.expert == degrees.ranks


@pytest.mark.parametrize(
    ("config", "ranks", "slots", "words"),
    [
        (
            ParallelConfig(data=3),
            4,
            64,
            "parallel.data (3) does not divide the number of ranks (4). Set parallel.data to 2, or start 3 ranks; "
            "parallel.shard: null takes what is left.",
        ),
        (
            ParallelConfig(data=2, shard=4),
            4,
            64,
            "parallel.data (2) x parallel.shard (4) is 8, but there are 4 ranks. Set parallel.shard to 2, or start 8",
        ),
        (
            ParallelConfig(expert=8),
            1,
            64,
            "parallel.expert (8) does not divide the number of ranks (1). Set parallel.expert to 1; 1 would fit.",
        ),
        (
            ParallelConfig(expert=8),
            8,
            60,
            "parallel.expert (8) does not divide the expert slots of a layer (model.moe.max_experts or num_experts: "
            "60). Set parallel.expert to 4; 1, 2, 4 would fit.",
        ),
        (
            ParallelConfig(data=3, shard=2, expert=3),
            6,
            6,
            "parallel.expert (3) is neither a divisor nor a multiple of parallel.shard (2). Set parallel.expert to 2; "
            "1, 2, 6 would fit.",
        ),
        (
            ParallelConfig(dispatcher="local", expert=2),
            2,
            64,
            "parallel.dispatcher is 'local', but parallel.expert (2) puts experts on other ranks. Set "
            "parallel.dispatcher to 'all_to_all', or parallel.expert to 1.",
        ),
    ],
)
def test_degrees_that_do_not_fit_are_refused_with_the_nearest_that_do(
    config: ParallelConfig, ranks: int, slots: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        config.degrees(ranks, slots)


def test_with_deepspeed_every_rank_trains_a_copy() -> None:
    config = ParallelConfig(engine="deepspeed", zero=2)
    assert config.degrees(8, 60, ranks_per_node=4) == Degrees(data=8, shard=1, expert=1)
    assert replace(config, data=8).degrees(8, 60) == Degrees(data=8)
    words = "parallel.data (4) is not the number of ranks (8)"
    with pytest.raises(ConfigError, match=re.escape(words)):
        replace(config, data=4).degrees(8, 60)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"zero": 2}, "zero (2) is DeepSpeed's, but engine is 'torch'. Leave it out, or set engine: deepspeed."),
        ({"offload": True}, "offload (True) is DeepSpeed's, but engine is 'torch'."),
        ({"engine": "deepspeed"}, "zero (None) must be 1, 2 or 3 with engine 'deepspeed'. Set zero: 2."),
        ({"engine": "deepspeed", "zero": 4}, "zero (4) must be 1, 2 or 3"),
        (
            {"engine": "deepspeed", "zero": 3, "expert": 2},
            "expert (2) must be 1 or null with engine 'deepspeed', which shares by ZeRO (zero: 3) over all ranks. Set "
            "expert: null, or engine: torch.",
        ),
        ({"engine": "deepspeed", "zero": 1, "shard": 4}, "shard (4) must be 1 or null with engine 'deepspeed'"),
        (
            {"engine": "deepspeed", "zero": 1, "dispatcher": "all_to_all"},
            "dispatcher ('all_to_all') is for experts on other ranks, which engine 'deepspeed' does not have.",
        ),
    ],
)
def test_what_deepspeed_does_not_do_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        ParallelConfig(**values)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [("data", 0, "must be 1 or more"), ("shard", -1, "must be 1 or more"), ("timeout_s", 0.0, "must be positive")],
)
def test_values_that_mean_nothing_are_refused(name: str, value: float, rule: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} \({value}\) {rule}"):
        ParallelConfig(**{name: value})  # type: ignore[arg-type]
