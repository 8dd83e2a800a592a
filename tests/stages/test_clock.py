"""What a step's time goes into, and which rank the others wait for."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import run_ranks, train_ranks
from tests.stages.test_loop import one_stage
from tests.tiny import STAGE, TIMED, config_tree, rows, train
from timeexpert.cli import main
from timeexpert.parallel import ParallelConfig
from timeexpert.planner.utilisation import flops_per_token, peak_of
from timeexpert.stages.clock import stragglers


def test_each_record_says_where_the_time_of_its_steps_went(tiny_data: Path, tmp_path: Path) -> None:
    train(one_stage(tiny_data, steps=4), tmp_path)
    told = [row for row in rows(tmp_path / "speed.jsonl") if row["kind"] == "speed"]
    assert [(row["step"], row["steps"]) for row in told] == [(step, 1) for step in range(1, 5)]
    for row in told:
        seconds = row["seconds"]
        pieces = sum(seconds[name] for name in ("data", "forward", "backward", "optimizer"))
        assert 0 < pieces <= seconds["step"] and min(seconds.values()) >= 0
        assert seconds["all_to_all"] == row["all_to_all_bytes"] == 0
        assert row["tokens_per_s"] > row["samples_per_s"] > 0 and row["peak_rss_gib"] > 0
        assert "mfu" not in row and "ranks" not in row  # no known peak, one process


def slow_rank(config: Any, out: Path, rank: int) -> None:
    """A job: training in which one rank's videos are read slowly."""
    from timeexpert.data.collate import BatchLoader

    read = BatchLoader.__call__

    def slow(self: BatchLoader, refs: Any) -> Any:
        import torch.distributed as dist

        if dist.get_rank() == rank:
            time.sleep(0.3)
        return read(self, refs)

    BatchLoader.__call__ = slow  # type: ignore[method-assign]
    train_ranks(config, out)


def test_a_rank_that_the_others_wait_for_is_named(tiny_data: Path, tmp_path: Path) -> None:
    config = one_stage(tiny_data, None, {"num_experts": 6}, steps=4, accumulate=3)
    config = replace(config, parallel=ParallelConfig(expert=3))
    run_ranks(3, slow_rank, config, tmp_path, 1)
    told = rows(tmp_path / "speed.jsonl")
    late = [row for row in told if row["kind"] == "straggler" and row["why"] == "data"]
    assert {row["rank"] for row in late} == {1} and {row["step"] for row in late} == {1, 2, 3, 4}
    assert all(row["seconds"] > 0.3 > row["median_s"] for row in late)
    for row in (row for row in told if row["kind"] == "speed"):
        assert len(row["ranks"]["reading_s"]) == 3 and 1 <= row["ranks"]["token_imbalance"] <= 3
        assert row["all_to_all_bytes"] > 0 and 0 < row["seconds"]["all_to_all"] < row["seconds"]["step"]


def test_stragglers_are_far_from_the_median() -> None:
    hosts = ["a", "b", "c", "d"]
    assert stragglers(hosts, [0.001, 0.001, 0.009, 0.001], [1e-3] * 4) == []  # eight milliseconds are nothing
    (late,) = stragglers(hosts, [0.1, 0.1, 0.1, 0.1], [1e-3, 1e-3, 1.4e-3, 2e-3])
    assert (late.rank, late.host, late.why) == (3, "d", "device")
    assert str(late) == "rank 3 on d computes a fixed probe in 0.0020 s, the median rank in 0.0010 s: all wait for it."
    (late,) = stragglers(hosts[:2], [0.1, 0.3], [1e-3] * 2)
    assert (late.rank, late.why) == (1, "data")


@pytest.mark.parametrize(
    ("name", "memory_gib", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 79.2, 989.4),
        ("NVIDIA A100-SXM4-40GB", 39.4, 312),
        ("NVIDIA H200", 139.8, 989.4),
        ("NVIDIA GeForce RTX 4090", 23.6, None),
        ("NVIDIA H100 NVL", 93.1, None),  # other rates than the 80 GB card's
    ],
)
def test_the_peak_of_a_gpu_is_known_by_its_name_and_memory(name: str, memory_gib: float, tflops: float | None) -> None:
    peak = peak_of(name, memory_gib, bf16=True)
    assert peak is None if tflops is None else peak == pytest.approx(1e12 * tflops, rel=1e-3)


def test_flops_per_token_are_six_per_active_weight_and_a_little(tiny_data: Path) -> None:
    from timeexpert.config import load
    from timeexpert.paths import packaged_config
    from timeexpert.stages.config import RunConfig

    aria = load(RunConfig, packaged_config("aria"))
    stage = next(stage for stage in aria.stages if stage.kind == "moe_pretraining")
    # 3.9 billion weights of the decoder compute a token (ARIA); the frozen vision tower and attention come on top
    assert 6 * 3.5e9 < flops_per_token(aria, stage, 100352) < 6 * 20e9


def test_a_profile_is_written_for_each_stage(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.tiny import write_config

    stage = {**STAGE, "name": "sft", "kind": "sft", "steps": 4, "tasks": TIMED, "num_frames": [2]}
    tree = config_tree(tiny_data)
    config = write_config(tiny_data, tmp_path / "c.yaml", stages=[stage], data={**tree["data"], "eval": None})
    assert main(["train", str(config), "--out", str(tmp_path / "run"), "--device", "cpu", "--profile", "2"]) == 0
    trace = json.loads((tmp_path / "run" / "profile" / "sft-00000.json").read_text())
    assert any("mm" in str(event.get("name")) for event in trace["traceEvents"])
    assert "profile of 2 steps" in capsys.readouterr().out
    assert main(["train", str(config), "--out", str(tmp_path / "run"), "--profile", "-1"]) == 2
