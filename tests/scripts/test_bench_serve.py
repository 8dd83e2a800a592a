"""scripts/bench_serve.py: a minute of its soak, and an answer that belongs to another question is seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from timeexpert.predict import Prediction, Predictor

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "checkpoints" / "tiny"
pytestmark = pytest.mark.slow


@pytest.fixture
def bench_serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # as Python does for a script
    import bench_serve

    yield bench_serve
    sys.modules.pop("bench_serve", None)


def test_a_minute_at_saturation(tmp_path: Path) -> None:
    """Answers equal those of one-by-one calls; none is lost or mixed up, and memory does not grow."""
    command = [sys.executable, "scripts/bench_serve.py", "--repeats", "1", "--soak-s", "60"]
    command += ["--out", str(tmp_path / "rows.jsonl")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["throughput"]["equal"] and row["throughput"]["mean_rows"] > 2
    soak = row["soak"]
    assert soak["answered"] > 50 and soak["left"] > 0 and soak["different_answers"] > 20
    assert soak["mixed_up"] == soak["unanswered"] == 0
    assert soak["memory_growth"] < 0.05


def test_an_answer_to_another_question_is_seen(
    bench_serve: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench_serve, "VIDEOS", 2)
    monkeypatch.setattr(bench_serve, "PER_VIDEO", 2)
    monkeypatch.setattr(bench_serve, "SOAK_CLIENTS", 3)
    asked = bench_serve.make_questions(tmp_path)
    assert len(asked) == len(set(asked)) == 4

    class Confused(Predictor):
        def ask(self, *_: Any, **__: Any) -> Prediction:
            return super().ask(asked[0].path, asked[0].prompt, task=asked[0].task)

    counts = bench_serve.soak(Confused.from_pretrained(MODEL, device="cpu"), MODEL, asked, 2.0)
    assert counts["mixed_up"] >= 1 and counts["unanswered"] == 0
