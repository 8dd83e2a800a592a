"""The benchmark runs everything it measures, and measures nothing where there is nothing to measure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent


def bench(*args: str, interpret: bool) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0"}
    command = [sys.executable, str(ROOT / "scripts" / "bench_kernels.py"), *args]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_everything_that_is_measured_runs() -> None:
    done = bench("--dry-run", interpret=not torch.cuda.is_available())
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 16 and "ran: layer, forward + backward" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_prints_no_figure() -> None:
    done = bench(interpret=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no GPU here, and nothing to measure")
