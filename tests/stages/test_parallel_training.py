"""The same YAML on one process and on several: losses, gradient norms, expert edits and weights are the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.ranks import cut, free_port, needs_deepspeed, run_ranks, train_ranks
from tests.tiny import ROOT, STAGE, TIMED, config_tree, rows, run_config, train, write_config
from timeexpert.config import ConfigError

# Experts come and go after every fifth step; on average a token has half of them.
CHANGING: dict[str, Any] = {
    "num_experts": 4,
    "max_experts": 8,
    "logit_scale": 5.0,
    "threshold_update": "mean_k",
    "fallback": "skip",
    "adaptive": {"enabled": True, "update_every": 5, "tau_min": 0.25, "min_active": 2, "add_share": 0.1},
}
RATES = {"adamw": 3e-3, "sgd": 5e-2, "muon": 3e-3}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "two copies": (2, {"data": 2, "expert": 1}),
    "two that share experts": (2, {"expert": 2}),
    "two by two, sharded": (4, {"shard": 4, "expert": 2}),
    "two by two, copied": (4, {"data": 2, "shard": 2, "expert": 2}),
    **{f"two with ZeRO-{stage}": (2, {"engine": "deepspeed", "zero": stage}) for stage in (1, 2, 3)},
}


def changes(data: Path, optimizer: str, steps: int = 20, /, **parallel: Any) -> dict[str, Any]:
    """A stage that calibrates its gates, edits its experts, and makes a step of four batches."""
    tree = config_tree(data)
    stage = {
        **STAGE,
        "name": "sft",
        "kind": "sft",
        "steps": steps,
        "tasks": TIMED,
        "num_frames": [2],
        "batch_videos": 1,
        "accumulate": 4,
        "calibrate_gates": True,
        "calibrate_batches": 3,
        "optimizer": optimizer,
        "lr": RATES[optimizer],
    }
    checkpointing = parallel.pop("gradient_checkpointing", False)
    return {
        "stages": [stage],
        "model": {**tree["model"], "moe": {**tree["model"]["moe"], **CHANGING}},
        "data": {**tree["data"], "eval": None},
        "train": {**tree["train"], "checkpoint_every": 100, "gradient_checkpointing": checkpointing},
        "parallel": parallel,
    }


@pytest.fixture(scope="module")
def alone(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of one process with an optimizer."""

    @cache
    def run(optimizer: str) -> Path:
        out = tmp_path_factory.mktemp("alone")
        train(run_config(tiny_data, **changes(tiny_data, optimizer)), out)
        return out

    return run


def assert_same_training(run: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Every step's losses, gradient norm and samples, every expert that came or went, and every weight."""
    ours, theirs = (rows(folder / "metrics.jsonl", "train") for folder in (run, other))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a["step"], a["samples"], a["skipped"]) == (b["step"], b["samples"], b["skipped"])
        for name in ("loss", "loss_text", "loss_time", "loss_score", "z_loss", "aux_loss", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=tolerance, abs=1e-9), (a["step"], name)
    ours, theirs = (rows(folder / "metrics.jsonl", "expert_edit") for folder in (run, other))
    for a, b in zip(ours, theirs, strict=True):
        assert {**a, "reason": ""} == {**b, "reason": ""}
    ours, theirs = (rows(folder / "metrics.jsonl", "experts") for folder in (run, other))
    for a, b in zip(ours, theirs, strict=True):  # each token is counted once, also where layers are computed twice
        assert [layer["tokens"] for layer in a["layers"]] == [layer["tokens"] for layer in b["layers"]]
        assert [layer["mean_k"] for layer in a["layers"]] == [layer["mean_k"] for layer in b["layers"]]
    mine, yours = (load_file(folder / "models" / "sft" / "model.safetensors") for folder in (run, other))
    assert mine.keys() == yours.keys()
    for name, weight in mine.items():
        assert weight.dtype == yours[name].dtype
        difference = (weight.float() - yours[name].float()).abs().max()
        assert difference <= 100 * tolerance * yours[name].float().abs().max(), name


@pytest.mark.parametrize(
    ("optimizer", "layout"),
    [
        ("adamw", "two copies"),
        ("adamw", "two that share experts"),
        ("adamw", "two by two, copied"),
        ("sgd", "two copies"),  # AdamW hides a gradient that is scaled wrongly
        ("sgd", "two that share experts"),
        ("sgd", "two by two, sharded"),
        *(
            pytest.param(optimizer, f"two with ZeRO-{stage}", marks=needs_deepspeed)
            for optimizer in ("adamw", "sgd")
            for stage in (1, 2, 3)
        ),
    ],
)
def test_ranks_train_as_one_process_does(
    optimizer: str, layout: str, tiny_data: Path, alone: Callable[[str], Path], tmp_path: Path
) -> None:
    ranks, degrees = LAYOUTS[layout]
    recompute = ranks == 4 or degrees.get("zero") == 3  # which changes neither gradients nor counts
    config = run_config(tiny_data, **changes(tiny_data, optimizer, gradient_checkpointing=recompute, **degrees))
    run_ranks(ranks, cut, train_ranks, config, tmp_path)
    assert_same_training(tmp_path, alone(optimizer))
    actions = {r["action"] for r in rows(tmp_path / "metrics.jsonl", "expert_edit")}
    assert actions >= ({"add", "remove"} if optimizer == "adamw" else {"add"})


def test_muon_orthogonalises_whole_matrices_not_blocks(tiny_data: Path, tmp_path: Path) -> None:
    train(run_config(tiny_data, **changes(tiny_data, "muon", 4)), tmp_path / "alone")
    config = run_config(tiny_data, **changes(tiny_data, "muon", 4, expert=1))
    run_ranks(2, train_ranks, config, tmp_path / "ranks")
    # in bfloat16, which torch's Muon computes in, the last bit of a gradient may cost one part in 256
    assert_same_training(tmp_path / "ranks", tmp_path / "alone", 1e-3)


def stop_at_7(config: Any, out: Path) -> None:
    """A job: as :func:`train_ranks`, with SIGTERM arriving at one rank in the seventh step."""
    import signal

    from timeexpert.stages.loop import StageRun, Stopped

    record = StageRun._record

    def stop(self: StageRun, *args: Any) -> None:
        record(self, *args)
        if self.step == 7 and self.engine.rank == self.engine.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    StageRun._record = stop  # type: ignore[method-assign]
    try:
        train_ranks(config, out)
    except Stopped:
        return
    raise AssertionError("it was not stopped")


@pytest.mark.slow
def test_a_checkpoint_goes_on_in_every_other_layout(tiny_data: Path, tmp_path: Path) -> None:
    def config(**parallel: Any) -> Any:
        tree = changes(tiny_data, "adamw", 10, **parallel)
        tree["stages"][0]["accumulate"] = 12  # which 1 to 4 ranks share evenly
        return run_config(tiny_data, **tree)

    by_four = {"shard": 4, "expert": 2}
    train(config(), tmp_path / "alone")
    run_ranks(4, stop_at_7, config(**by_four), tmp_path / "four")
    run_ranks(1, stop_at_7, config(), tmp_path / "one")
    for name in ("four", "one"):
        assert [p.name for p in (tmp_path / name / "checkpoints").iterdir()] == ["sft-0000007"]
    saved = tmp_path / "four" / "checkpoints" / "sft-0000007"
    assert len(list(saved.glob("model-*.safetensors"))) == 4
    whole_bytes = (tmp_path / "one" / "checkpoints" / "sft-0000007" / "model.safetensors").stat().st_size
    assert sum(p.stat().st_size for p in saved.glob("model-*")) < 1.2 * whole_bytes  # each block is written once
    for name, ranks, parallel in (("1", 1, {}), ("2", 2, {"expert": 2}), ("3", 3, {})):
        shutil.copytree(tmp_path / "four", tmp_path / name)
        if ranks == 1:
            train(config(**parallel), tmp_path / name)
        else:
            run_ranks(ranks, train_ranks, config(**parallel), tmp_path / name)
        assert_same_training(tmp_path / name, tmp_path / "alone", 1e-6)
    run_ranks(4, train_ranks, config(**by_four), tmp_path / "one")
    assert_same_training(tmp_path / "one", tmp_path / "alone", 1e-6)


def torchrun(*words: object, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """torchrun, as docs/distributed.md says, far from a terminal."""
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={free_port()}"]
    places = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "300"}
    return subprocess.run(
        [sys.executable, *launch, "-m", "timeexpert", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,  # a minute on an idle machine
        check=False,
    )


@pytest.mark.parametrize(
    ("optimizer", "parallel"),
    [("muon", {"expert": 2}), pytest.param("adamw", {"engine": "deepspeed", "zero": 3}, marks=needs_deepspeed)],
    ids=["torch", "deepspeed"],
)
def test_torchrun_trains_evaluates_and_reports_and_one_rank_writes(
    optimizer: str, parallel: dict[str, Any], tiny_data: Path, tmp_path: Path
) -> None:
    tree = config_tree(tiny_data)
    backbone, sft = ({**stage, "accumulate": 2} for stage in tree["stages"])
    stages = [backbone, {**sft, "steps": 2, "optimizer": optimizer}]
    moe = {**tree["model"]["moe"], "num_experts": 4}
    config = write_config(
        tiny_data, tmp_path / "tiny.yaml", stages=stages, model={**tree["model"], "moe": moe}, parallel=parallel
    )
    run = tmp_path / "run"
    done = torchrun("train", config, "--out", run, "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    for once in ("stage backbone (backbone)", "stage sft (sft)", "evaluated sft: ", "control: mean segment", "report:"):
        assert said.count(once) == 1, said
    assert [(r["stage"], r["step"]) for r in rows(run / "metrics.jsonl", "train")] == [
        *(("backbone", step) for step in range(1, 5)),
        *(("sft", step) for step in range(1, 3)),
    ]
    evals = rows(run / "metrics.jsonl", "eval")
    assert [r["control"] for r in evals] == [None, "noise_frames", "mean_segment"]
    told = rows(run / "predictions" / "sft.jsonl")
    assert len(told) == evals[0]["questions"] and len({row["id"] for row in told}) == len(told)
    assert (run / "report.html").is_file() and len(rows(run / "starts.jsonl")) == 1
    described = json.loads((run / "models" / "sft" / "config.json").read_text())
    assert described["architectures"] == ["TimeExpert"]  # not the name FSDP2 gives the class
    # the finished model answers in one process
    evaluated = subprocess.run(
        [sys.executable, "-m", "timeexpert", "eval", str(run), "--device", "cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr


def test_batches_that_ranks_cannot_share_evenly_are_refused(tiny_data: Path) -> None:
    stage = run_config(tiny_data, **changes(tiny_data, "sgd")).stages[0]
    words = (
        r"stages.sft.accumulate \(4\) batches make one optimizer step, and 3 ranks cannot share them evenly. Set "
        r"stages.sft.accumulate to 3 or 6, or start 1, 2, 4 ranks."
    )
    with pytest.raises(ConfigError, match=words):
        stage.check_ranks(3)
