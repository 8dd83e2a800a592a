"""``timeexpert train`` as it is typed; kills, stops and full disks are in tests/stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import rows, write_config
from timeexpert.cli import main


def test_one_command_trains_evaluates_reports_and_says_where(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    config, out = write_config(tiny_data, tmp_path / "tiny.yaml"), tmp_path / "[red] run"  # a path is no markup
    words = ["train", str(config), "--out", str(out), "--device", "cpu"]
    assert main([*words, "--stage", "backbone"]) == 0
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "stage backbone (backbone): 4 steps, trains vision_tower, compression," in said
    assert "after sft" in said and "control: noise frames" in said
    assert f"report: {out}/report.html" in said
    assert (out / "report.html").stat().st_size > 1000
    again = [{**r, "tokens_per_s": 0} for r in rows(out / "metrics.jsonl")]
    assert again == [{**r, "tokens_per_s": 0} for r in rows(tiny_run / "metrics.jsonl")]


def test_a_finished_run_is_not_trained_again(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tiny_data, tmp_path / "tiny.yaml")
    before = (tiny_run / "metrics.jsonl").read_bytes()
    assert main(["train", str(config), "--out", str(tiny_run), "--device", "cpu"]) == 0
    assert (tiny_run / "metrics.jsonl").read_bytes() == before
    assert "steps, trains" not in capsys.readouterr().out


def test_a_config_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tyni"]) == 2
    assert "config 'tyni': neither a file nor a config that comes with the package" in capsys.readouterr().err
