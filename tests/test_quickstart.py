from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.tiny import KINDS, write_config
from timeexpert.cli import main


def test_the_whole_way_on_a_laptop_and_the_same_command_does_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    synth = {name: json.loads(json.dumps(asdict(config))) for name, config in KINDS.items()}
    config, run = write_config(tmp_path, tmp_path / "tiny.yaml", synth=synth), tmp_path / "run"
    words = ["quickstart", "--config", str(config), "--out", str(run), "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "after sft" in said and "control: mean segment" in said
    assert f"report: {run}/report.html" in said
    summary = json.loads((run / "summary.json").read_text())
    assert {"data images", "data videos", "data held_out", "backbone", "sft"} <= summary["seconds"].keys()
    metrics = (run / "metrics.jsonl").read_bytes()
    made = {p: p.stat().st_mtime_ns for p in (run / "data").rglob("*") if p.is_file() and p.name != ".lock"}

    proposed = next(line for line in said.splitlines() if line.startswith("  timeexpert predict "))
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(proposed)[1:]) == 0  # what it proposes works as it stands
    assert list(tmp_path.glob("*.timeline.png"))

    assert main(words) == 0
    assert (run / "metrics.jsonl").read_bytes() == metrics
    assert {p: p.stat().st_mtime_ns for p in made} == made
    assert json.loads((run / "summary.json").read_text())["stages"] == summary["stages"]


def test_a_config_without_the_data_to_make_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, tmp_path / "tiny.yaml")
    assert main(["quickstart", "--config", str(config), "--out", str(tmp_path / "run")]) == 2
    assert "synth lacks 'images'; quickstart makes every data set of data.train and held_out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
