"""The benchmark runs everything it measures, and measures nothing where there is nothing to measure."""

from __future__ import annotations

import importlib.util
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
    assert len(done.stdout.splitlines()) == 20 and "ran: experts, forward + backward" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_prints_no_figure() -> None:
    done = bench(interpret=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no GPU here, and nothing to measure")


def test_a_rate_is_held_against_the_fastest_of_what_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # as Python does for a script
    spec = importlib.util.spec_from_file_location("bench_kernels", ROOT / "scripts" / "bench_kernels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    cases = [
        module.Case("slow", print, flops=2e12),
        module.Case("fast", print, flops=2e12),
        module.Case("ours", print, flops=2e12, against=("slow", "fast"), wanted=1.0),
        module.Case("copy", print, bytes=1e9),
    ]
    rows = module.records(cases, {"slow": 4.0, "fast": 1.0, "ours": 2.0, "copy": 1.0})
    assert [row["rate"] for row in rows] == [500.0, 2000.0, 1000.0, 1000.0]
    assert (rows[2]["against"], rows[2]["ratio"], rows[2]["wanted"]) == ("fast", 0.5, 1.0)
    assert (rows[0]["against"], rows[0]["ratio"], rows[3]["unit"]) == (None, None, "GB/s")
