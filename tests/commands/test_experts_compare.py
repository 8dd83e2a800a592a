from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.reports.fake_run import experts_row, make_run, write_lines
from timeexpert.cli import main


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_tables_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    page = tmp_path / "out.html"
    assert main(["experts", "compare", str(a), str(b), "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert "A: first: stage sft, step 180" in said and "B: second" in said
    assert "2.10 -> 2.10" in said and "R@1 IoU 0.5" in said and f"wrote {page}" in said
    assert page.read_text().startswith("<!doctype html>")


def test_one_json_object_of_one_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = make_run(tmp_path / "run")
    assert main(["experts", "compare", str(a), str(a), "--json", "--stage", "moe_pretraining"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["a"]["stage"] == "moe_pretraining" and row["overall"]["R@1 IoU 0.5"]["a"] == 40.0


def test_the_terminal_is_safe_from_what_records_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = experts_row("a\x1b[2J", 0) | {
        "token_types": ["[red]text\x1b", "sync", "time", "score", "vision", "frame_time"]
    }
    write_lines(tmp_path / "metrics.jsonl", [row])
    assert main(["experts", "compare", str(tmp_path), str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "[red]text" in said


def test_what_can_be_wrong_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "young").mkdir()
    for words, said in [
        ([run, tmp_path / "nowhere"], "nowhere: no such run folder. Give the folder that training wrote"),
        ([tmp_path / "young", run], "young: metrics.jsonl holds no readable expert records"),
        ([run, run, "--stage", "rl"], "stage 'rl' has no expert records. Stages with records: moe_pretraining, sft."),
        ([run, run, "--html", tmp_path / "no" / "x.html"], "x.html: cannot be written (No such file or directory)."),
    ]:
        assert main(["experts", "compare", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1
