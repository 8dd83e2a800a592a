from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.reports.fake_run import experts_row, make_run, write_lines
from tests.reports.weights import expert_tensors, write_model
from timeexpert.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_tables_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    write_model(run / "models" / "sft", expert_tensors(2, 8))
    assert main(["experts", "report", str(run), "--html", str(tmp_path / "out.html")]) == 0
    said = capsys.readouterr().out
    assert "Experts of run: stage sft, step 180" in said and "7 / 8" in said
    assert "dead: 0 of a fair share, since step 0" in said
    assert "2.10, 1.0 %" in said  # mean k of a type, and its tokens without expert
    assert "k = 6" in said and "65.0 %" in said
    assert "1 times add, 1 times remove" in said and "add from 2" in said
    assert "4.1 % of tokens reached no expert" in said
    assert f"wrote {tmp_path / 'out.html'}" in said
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")


def test_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    write_model(run / "models" / "sft", expert_tensors(2, 8))
    assert main(["experts", "report", str(run), "--json", "--stage", "sft"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["stage"] == "sft" and row["layers"][0]["mean_k_by_type"]["time"] == pytest.approx(2.1, abs=1e-4)
    assert row["layers"][0]["fallback_by_type"]["time"] == 0.01
    assert row["weights"]["folder"] == "sft" and len(row["weights"]["nearest"]) == 16
    assert row["weights"]["cost_per_token"]["k = 6"]["expert_bytes"] == 1152
    assert main(["experts", "report", str(run), "--json", "--no-similarity"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"]["nearest"] == []
    assert main(["experts", "report", str(run), "--json", "--stage", "moe_pretraining"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] is None  # no model of that stage


def test_the_shipped_checkpoint_has_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experts", "report", str(ROOT / "checkpoints" / "tiny")]) == 0
    said = capsys.readouterr().out
    assert "Experts of tiny: stage settle" in said and "wanted k = 2" in said and "note:" not in said


def test_the_terminal_is_safe_from_what_records_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit = {"kind": "expert_edit", "stage": "a\x1b[2J", "action": "[bold]add", "reason": "\ud800", "global_step": 0}
    row = experts_row("a\x1b[2J", 0) | {
        "token_types": ["\x1b[2J", "[red]sync", "time", "score", "vision", "frame_time"]
    }
    write_lines(tmp_path / "metrics.jsonl", [row, edit])
    for flags in ([], ["--json"], ["--html", str(tmp_path / "x.html")]):
        assert main(["experts", "report", str(tmp_path), *flags]) == 0
        said = capsys.readouterr().out
        assert "\x1b[2J" not in said
        assert flags == ["--json"] or "[bold]add" in said


def test_what_can_be_wrong_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "young").mkdir()
    for words, said in [
        ([tmp_path / "nowhere"], "nowhere: no such run folder. Give the folder that training wrote"),
        ([tmp_path / "young"], "metrics.jsonl holds no readable expert records"),
        ([run, "--stage", "sfd"], "stage 'sfd' has no expert records. Stages with records: moe_pretraining, sft."),
        ([run, "--html", tmp_path / "no" / "x.html"], "x.html: cannot be written (No such file or directory)."),
    ]:
        assert main(["experts", "report", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1
