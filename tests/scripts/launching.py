"""Launch scripts as processes: started with this Python, watched through the run folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.tiny import ROOT, rows

# Two ranks share the batches of a step, so there must be two of them.
TWO_RANKS = ("stages.backbone.accumulate=2", "stages.sft.accumulate=2", "--device", "cpu")
PATIENCE_S = 1800
STARTED: list[subprocess.Popen[str]] = []


def launch(script: str, *words: object, env: dict[str, str] | None = None, **kwargs: Any) -> subprocess.Popen[str]:
    """``scripts/SCRIPT WORDS``, with its output in one pipe."""
    return start([ROOT / "scripts" / script, *words], env=env, **kwargs)


def start(words: list[object], env: dict[str, str] | None = None, **kwargs: Any) -> subprocess.Popen[str]:
    """A command in the environment that the launchers see in tests."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "RANK", "NODES", "MASTER_"))}
    process = subprocess.Popen(
        list(map(str, words)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **clean,
            "PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
            "COLUMNS": "300",
            **(env or {}),
        },
        **kwargs,
    )
    STARTED.append(process)
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output."""
    said, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said


def steps(run: Path) -> list[int]:
    """The global steps that the metrics of a run tell of."""
    path = run / "metrics.jsonl"
    return [row["global_step"] for row in rows(path, "train")] if path.is_file() else []


def wait_until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until something is the case while a process runs."""
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def end_all() -> None:
    """Kill what a failed test left running, with everything below it."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            top = psutil.Process(process.pid)
            for one in (*top.children(recursive=True), top):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
