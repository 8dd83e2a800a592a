"""``timeexpert plan``: what it prints, its exit codes, and what it refuses."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from timeexpert.commands import plan
from timeexpert.errors import UserError

TWO_NODES = ("--nodes", "2", "--gpus-per-node", "8")
FITS = ("stages.sft.batch_videos=1", "stages.sft.accumulate=256")


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    plan.add_arguments(parser)
    return plan.run(parser.parse_intermixed_args([str(arg) for arg in argv]))


def as_json(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    run(*argv, "--json")
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def test_a_plan_says_memory_work_traffic_time_and_the_limit(capsys: pytest.CaptureFixture[str]):
    assert run("aria", *FITS, "--stage", "sft", *TWO_NODES) == 0
    printed = capsys.readouterr().out
    for words in ("shard 16, expert 8", "Memory per GPU", "TFLOP per GPU", "Bytes on the wire", "limit: ", "fits"):
        assert words in printed


def test_what_does_not_fit_is_exit_code_1_and_the_way_out(capsys: pytest.CaptureFixture[str]):
    assert run("aria", "--stage", "sft", *TWO_NODES) == 1
    printed = capsys.readouterr().out
    assert "does not fit" in printed
    assert "fits with stages.sft.batch_videos=" in printed


def test_the_way_out_fits(capsys: pytest.CaptureFixture[str]):
    (stage,) = as_json(capsys, "aria", "--stage", "sft", *TWO_NODES)["stages"]
    changes = stage["advice"]["changes"][0]["change"][0].split()
    (changed,) = as_json(capsys, "aria", "--stage", "sft", *TWO_NODES, *changes)["stages"]
    assert not stage["fits"] and changed["fits"]


def test_json_has_every_stage_and_the_assumptions(capsys: pytest.CaptureFixture[str]):
    out = as_json(capsys, "aria", *TWO_NODES)
    assert [stage["stage"] for stage in out["stages"]] == ["task_modules", "moe_pretraining", "sft"]
    assert out["cluster"]["gpu"]["source"].startswith("NVIDIA H100 data sheet")
    assert "100352 text pieces" in out["notes"][0]
    assert {c["kind"] for c in out["stages"][0]["collectives"]} >= {"all_gather", "all_to_all"}


def test_a_plan_of_an_rl_stage_says_what_it_leaves_out(capsys: pytest.CaptureFixture[str]):
    one = ("rl_tiny", "--stage", "phase1", "--nodes", "1", "--gpus-per-node", "1")
    (note,) = as_json(capsys, *one)["notes"]
    assert "all 8 of a question in its row, and on each GPU 1 whole float32 copies" in note
    (note,) = as_json(capsys, *one, "stages.phase1.rl.beta=0")["notes"]
    assert "on each GPU 0 whole float32 copies of the model (0.0 GiB)" in note


def test_the_sweep_has_a_row_per_number_of_gpus(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")  # no figure is cut, however narrow the terminal
    out = as_json(capsys, "aria", "--stage", "sft", "--sweep", "--max-gpus", "32")
    assert [row["gpus"] for row in out["sweep"]["sft"]] == [1, 2, 4, 8, 16, 32]
    assert run("aria", "--stage", "sft", "--sweep", "--max-gpus", "4") == 0
    table = capsys.readouterr().out
    assert "tokens/s" in table and "…" not in table


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("parallel.expert=5",), r"parallel.expert \(5\) does not divide.*Set parallel.expert to 4"),
        (("parallel.expert=16", "model.moe.num_experts=8"), r"parallel.expert \(16\).*Set parallel.expert to 8"),
        (("parallel.shard=3",), r"parallel.shard \(3\) does not divide the number of ranks \(16\)"),
        (("stages.sft.accumulate=3",), r"stages.sft.accumulate \(3\).*16 ranks"),
        (("--stage", "stf"), r"--stage 'stf' is not a stage"),
        (("--gpu", "h100"), r"Did you mean 'h100-80g'"),
        (("--experts-per-token", "65"), r"--experts-per-token \(65\)"),
        (("--imbalance", "0.5"), r"--imbalance \(0.5\) must be 1 or more"),
        (("--sweep", "--max-gpus", "0"), r"--max-gpus \(0\) must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest_that_can(argv: tuple[str, ...], words: str):
    with pytest.raises(UserError, match=words):
        run("aria", *TWO_NODES, *argv)
