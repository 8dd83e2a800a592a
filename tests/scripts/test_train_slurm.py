"""The SLURM job on a stand-in for SLURM: nodes are processes of this machine, everything in them is real."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import free_port
from tests.scripts.launching import TWO_RANKS, finish, start, steps, wait_until
from tests.scripts.slurm import install
from tests.tiny import ROOT, write_config

A, B, C = "127.0.0.1", "127.0.0.2", "127.0.0.3"  # names of nodes that are addresses of this machine
FULL_DISK = {"env": {"MIN_FREE_GB": "1000000000"}}  # a limit that this machine's disk does not reach
UNREACHABLE = {"env": {"RENDEZVOUS": "nowhere.invalid:29500", "RENDEZVOUS_NODE": C}}
DEAD = {"dead": True}


@pytest.fixture
def config(tiny_data: Path, tmp_path: Path) -> Path:
    return write_config(tiny_data, tmp_path / "tiny.yaml")


def submit(folder: Path, nodes: dict[str, Any], *words: object, **env: str) -> subprocess.Popen[str]:
    """A job on these nodes with one rank each; the job's own folder is where it was submitted."""
    settings = {
        **install(folder / "slurm", nodes),
        "TIMEEXPERT_ROOT": str(ROOT),
        "RANKS_PER_NODE": "1",
        "LOGS": str(folder / "logs"),
        "RENDEZVOUS_PORT": str(free_port()),
        "MIN_FREE_GB": "0",
        "HEALTH_TIMEOUT_S": "900",
        **env,
    }
    script = ROOT / "scripts" / "train_slurm.sbatch"
    return start(["sbatch", f"--nodes={len(nodes)}", script, *words], env=settings, cwd=folder)


def warn(folder: Path, number: int) -> None:
    """What SLURM sends to the batch script."""
    os.kill(int((folder / "slurm" / "batch.pid").read_text()), number)


def test_a_bad_node_is_left_out_and_a_warned_job_comes_back_and_continues(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (config, *TWO_RANKS, "stages.sft.steps=30", "train.checkpoint_every=1000", "-o", run)
    process = submit(tmp_path, {A: {}, B: FULL_DISK, C: {}}, *words, NODES="2")
    wait_until(lambda: len(steps(run)) >= 6, process)
    warn(tmp_path, signal.SIGUSR1)
    code, said = finish(process)
    logs = {path.name: path.read_text() for path in (tmp_path / "logs").glob("*.log")}
    assert code == 0, said + str(logs)
    assert f"node {B} failed the check 'alone': error:" in said and "MIN_FREE_GB asks for 1e+09" in said
    assert said.count(f"going on without {B}") == 2 and said.count(f"training on {A} {C} with 1 ranks each") == 2
    assert "back into the queue, to continue from the last checkpoint" in said
    assert sorted(logs) == [f"{A}.log", f"{C}.log"]
    assert "stopped; the state is saved" in "".join(logs.values())
    assert "continuing stage sft at step" in "".join(logs.values())
    assert steps(run) == list(range(1, 35))


def test_a_node_that_does_not_reach_the_others_is_named_and_the_job_stops(config: Path, tmp_path: Path) -> None:
    process = submit(
        tmp_path,
        {A: {}, B: {}, C: UNREACHABLE},
        config,
        "stages.backbone.accumulate=3",
        "stages.sft.accumulate=3",
        "--device",
        "cpu",
        "-o",
        tmp_path / "run",
    )
    code, said = finish(process)
    assert code == 2, said
    assert f"no connection: {C}" in said
    assert f"1 of the job's nodes failed the health check, and 3 are needed. sbatch --exclude={C}" in said
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_node_that_does_not_answer_is_named(tmp_path: Path) -> None:
    code, said = finish(submit(tmp_path, {A: DEAD, B: DEAD}, "tiny", HEALTH_TIMEOUT_S="1"))
    assert code == 2
    assert f"node {A} failed the check 'alone': no answer within 1 seconds" in said
    assert f"2 of the job's nodes failed the health check, and 2 are needed. sbatch --exclude={A},{B}" in said


def test_a_cancelled_job_does_not_come_back(tmp_path: Path) -> None:
    process = submit(tmp_path, {A: DEAD}, "tiny")
    wait_until(lambda: (tmp_path / "logs" / "health" / "0-1-alone").is_dir(), process)
    warn(tmp_path, signal.SIGTERM)
    code, said = finish(process)
    assert code == 143 and "stopped. Submit the same command to continue" in said


def test_a_job_comes_back_no_more_often_than_allowed(tmp_path: Path) -> None:
    process = submit(tmp_path, {A: DEAD}, "tiny", MAX_REQUEUES="1")
    for start_number in (0, 1):
        folder = tmp_path / "logs" / "health" / f"{start_number}-1-alone"
        wait_until(folder.is_dir, process)
        warn(tmp_path, signal.SIGUSR1)
    code, said = finish(process)
    assert code == 2 and "came back MAX_REQUEUES (1) times" in said
    assert said.count("back into the queue") == 1


def test_jobs_that_cannot_start_are_told_why(tmp_path: Path) -> None:
    def refused(name: str, words: str, **env: str) -> None:
        (tmp_path / name).mkdir()
        code, said = finish(submit(tmp_path / name, {A: {}}, "tiny", **env))
        assert code == 2 and words in said, said

    refused("nodes", "NODES (2) is more than the job has (127.0.0.1). Use sbatch --nodes=2 or more.", NODES="2")
    refused("gpus", "SLURM gave no GPU to this job.", RANKS_PER_NODE="")
    refused("root", "is not a checkout of TimeExpert. Submit from its root", TIMEEXPERT_ROOT="/nowhere")
    code, said = finish(start([ROOT / "scripts" / "train_slurm.sbatch", "tiny"]))
    assert code == 2 and "this is no SLURM job" in said
