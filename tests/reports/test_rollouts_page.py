"""The page of rollouts: every answer of a shown question, its rewards, and a line of time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from timeexpert.reports.errors import ReportError
from timeexpert.reports.rollouts_page import write_rollouts_page


def event(start_s: float, end_s: float, text: str = "a <dog>") -> dict[str, Any]:
    return {"start_s": start_s, "end_s": end_s, "scores": [], "text": text}


def write_run(run: Path, questions: int) -> None:
    answers = [
        {"events": [event(1, 4)], "rewards": {"format": 1.0, "local_matching": 0.75}, "reward": 1.75, "advantage": 0.7},
        {"events": [], "rewards": {"format": 0.2, "local_matching": 0.0}, "reward": 0.2, "advantage": -0.7},
    ]
    rows = [
        {
            "stage": "phase1",
            "global_step": step,
            "id": f"q{step}",
            "video": "a.mp4",
            "prompt": "When does <b> jump?",
            "duration_s": 10.0,
            "truth": [event(1, 5)],
            "answers": answers,
        }
        for step in range(1, questions + 1)
    ]
    (run / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    steps = [
        {"kind": "train", "stage": "phase1", "step": s, "global_step": s, "reward": s / 10, "kl": 0.0}
        | {"reward_format": 0.6, "reward_format_std": 0.4}
        for s in range(1, questions + 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps), encoding="utf-8")


def test_the_page_shows_some_questions_with_all_answers_best_first(tmp_path: Path) -> None:
    write_run(tmp_path, 20)
    path = write_rollouts_page(tmp_path)
    assert path is not None
    html = path.read_text(encoding="utf-8")
    assert html.count('<div class="q">') == 6 and html.count('<svg class="events"') == 12
    assert html.index("1.75") < html.index("0.20")
    assert "When does &lt;b&gt; jump?" in html and "a &lt;dog&gt;" in html and "<script" not in html
    assert "0.600 \u00b1 0.400" in html and "q1 \u00b7" in html and "q20 \u00b7" in html


def test_an_answer_in_words_is_shown_with_its_text_begin_and_end(tmp_path: Path) -> None:
    write_run(tmp_path, 1)
    row = json.loads((tmp_path / "rollouts.jsonl").read_text(encoding="utf-8"))
    row["answers"][0]["text"] = "<think>at 1" + "x" * 5000 + "</think><answer>1-4</answer>"
    (tmp_path / "rollouts.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    path = write_rollouts_page(tmp_path)
    assert path is not None
    html = path.read_text(encoding="utf-8")
    assert "<pre>&lt;think&gt;at 1x" in html and "x ... x" in html and "&lt;answer&gt;1-4&lt;/answer&gt;</pre>" in html
    assert html.count("<pre>") == 1 and len(html) < 20_000


def test_a_run_without_rollouts_has_no_page_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    assert write_rollouts_page(tmp_path) is None
    (tmp_path / "rollouts.jsonl").write_text("{\n", encoding="utf-8")
    with pytest.raises(ReportError, match=r"rollouts.jsonl: not JSON lines .* Continue the run, which repairs it"):
        write_rollouts_page(tmp_path)
