"""The soak of scripts/bench_serve.py counts answers, and notices those that belong to another question."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from timeexpert.predict import Predictor
from timeexpert.serving.engine import Engine, Question, Ticket

ROOT = Path(__file__).resolve().parents[2]


def test_a_soak_counts_answers_and_finds_mixed_up_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # as Python does for a script
    import bench_serve

    monkeypatch.setattr(bench_serve, "VIDEOS", 2)
    monkeypatch.setattr(bench_serve, "PER_VIDEO", 2)
    monkeypatch.setattr(bench_serve, "SOAK_CLIENTS", 3)
    predictor = Predictor.from_pretrained(ROOT / "checkpoints" / "tiny", device="cpu")
    asked = bench_serve.make_questions(tmp_path)
    assert len(asked) == len(set(asked)) == 4
    sound: dict[str, Any] = bench_serve.soak(predictor, asked, 0.3)
    assert sound["answered"] >= 1 and sound["mixed_up"] == sound["unanswered"] == 0
    assert sound["different_answers"] >= 3

    submit = Engine.submit

    def mix_up(self: Engine, question: Question) -> Ticket:
        return submit(
            self, replace(question, prompt=asked[0].prompt, task=asked[0].task, video=asked[0].question.video)
        )

    monkeypatch.setattr(Engine, "submit", mix_up)
    assert bench_serve.soak(predictor, asked, 0.3)["mixed_up"] >= 1
    sys.modules.pop("bench_serve", None)
