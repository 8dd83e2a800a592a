"""Ranks that die, hang or cannot write: the job is training again by itself, and no question is lost or seen twice."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ranks import run_ranks, train_ranks
from tests.scripts.launching import TWO_RANKS, end_all, finish, launch, steps, wait_until
from tests.tiny import STAGE, TIMED, config_tree, rows, run_config, train, write_config
from timeexpert.checkpoint import verify


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    yield
    end_all()


def faulty_stage(steps: int) -> dict[str, Any]:
    stage = {
        **STAGE,
        "name": "sft",
        "kind": "sft",
        "steps": steps,
        "tasks": TIMED,
        "num_frames": [2],
        "batch_videos": 1,
    }
    return {**stage, "accumulate": 2}


def tree_of(data: Path, steps: int, **train: Any) -> dict[str, Any]:
    tree = config_tree(data)
    return {
        "stages": [faulty_stage(steps)],
        "data": {**tree["data"], "eval": None},
        "train": {**tree["train"], "checkpoint_every": 2, "log_samples": True, **train},
    }


def rank(process: Any, number: int) -> psutil.Process:
    """The youngest process that torchrun started as that rank."""
    ranks = [p for p in psutil.Process(process.pid).children(recursive=True) if p.environ().get("RANK") == str(number)]
    return min(ranks, key=lambda found: found.create_time())


@pytest.mark.parametrize(
    ("number", "patience_s"),
    [
        pytest.param(signal.SIGKILL, 60, id="killed", marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 5, id="hangs in a collective", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_is_lost_is_started_again_and_every_question_is_seen_once(
    number: int, patience_s: int, tiny_data: Path, tmp_path: Path
) -> None:
    """A stopped rank answers nobody: the others' collectives time out after ``parallel.timeout_s``."""
    changes = tree_of(tiny_data, 24)
    train(run_config(tiny_data, **changes), tmp_path / "unbroken")
    config = write_config(tiny_data, tmp_path / "tiny.yaml", **changes, parallel={"timeout_s": patience_s})
    run = tmp_path / "run"
    env = {"RANKS_PER_NODE": "2", "GRACE_S": "3", "MAX_RESTARTS": "1", "MIN_FREE_GB": "0"}
    process = launch("train_node.sh", config, "--device", "cpu", "-o", run, env=env)
    wait_until(lambda: len(steps(run)) >= 5, process)
    rank(process, 1).send_signal(number)
    code, said = finish(process)
    assert code == 0, said
    assert "continuing stage sft at step" in said
    if number == signal.SIGSTOP:
        assert "imed out" in said  # whoever says it: gloo, torch
    ours, theirs = (rows(folder / "samples.jsonl") for folder in (run, tmp_path / "unbroken"))
    assert ours == theirs and [row["step"] for row in ours] == list(range(1, 25))
    losses, unbroken = (
        [row["loss"] for row in rows(f / "metrics.jsonl", "train")] for f in (run, tmp_path / "unbroken")
    )
    assert losses == pytest.approx(unbroken, rel=1e-5)


def full_disk_on_one_rank(config: Any, out: Path) -> str:
    """A job: rank 1 may write no more than 1 KiB per file; what it ends with."""
    import torch.distributed as dist

    from timeexpert.checkpoint.saver import Saver
    from timeexpert.errors import UserError

    write = Saver._write

    def limited(self: Saver, *args: Any) -> Any:
        if dist.get_rank() == 1 and "0000004" in str(args[0]):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        return write(self, *args)

    Saver._write = limited  # type: ignore[method-assign]
    try:
        train_ranks(config, out)
    except UserError as error:
        return str(error)
    except SystemExit as end:
        return f"ended with {end.code}"
    return "trained"


def test_a_full_disk_on_one_rank_is_told_by_the_first_and_the_checkpoint_before_it_stays(
    tiny_data: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_data, **tree_of(tiny_data, 12))
    first, second = run_ranks(2, full_disk_on_one_rank, config, tmp_path)
    assert "sft-0000004: cannot be saved: " in first and "File too large" in first and "free some space" in first
    assert second == "ended with 2"
    names = sorted(os.listdir(tmp_path / "checkpoints"))
    assert names == ["sft-0000002"]
    verify(tmp_path / "checkpoints" / "sft-0000002")
    train(config, tmp_path)  # there is room again; one process goes on
    assert [row["step"] for row in rows(tmp_path / "samples.jsonl")] == list(range(1, 13))


def test_sigterm_to_all_ranks_leaves_a_checkpoint_within_the_grace(tiny_data: Path, tmp_path: Path) -> None:
    config = write_config(tiny_data, tmp_path / "tiny.yaml", **tree_of(tiny_data, 200, checkpoint_every=1000))
    run = tmp_path / "run"
    env = {"RANKS_PER_NODE": "2", "GRACE_S": "30", "MAX_RESTARTS": "0", "MIN_FREE_GB": "0"}
    process = launch("train_node.sh", config, *TWO_RANKS[2:], "-o", run, env=env)
    wait_until(lambda: len(steps(run)) >= 4, process)
    process.terminate()
    code, said = finish(process)
    assert code == 143, said
    (checkpoint,) = (run / "checkpoints").iterdir()
    verify(checkpoint)
    assert int(checkpoint.name.removeprefix("sft-")) == steps(run)[-1] < 200
