from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny import rows
from timeexpert.cli import main


def test_a_run_needs_no_further_word_and_two_evaluations_are_equal_to_the_bit(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        file = tmp_path / f"{name}.jsonl"
        words = ["eval", str(tiny_run), "--json", "--device", "cpu", "--batch-size", "8", "--predictions", str(file)]
        assert main(words) == 0
    a, b = capsys.readouterr().out.splitlines()
    assert a == b
    (recorded,) = (r for r in rows(tiny_run / "metrics.jsonl", "eval") if r["control"] is None)
    figures = json.loads(a)
    assert {k: recorded[k] for k in figures} == figures
    assert figures["parse_rate"] == 100.0 and figures["unreadable"] == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.jsonl").read_bytes() == (tiny_run / "predictions" / "sft.jsonl").read_bytes()


def test_noise_frames_are_the_recorded_control(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", str(tiny_run), "--json", "--noise-frames", "--device", "cpu", "--batch-size", "8"]
    assert main(words) == 0
    figures = json.loads(capsys.readouterr().out)
    (recorded,) = (r for r in rows(tiny_run / "metrics.jsonl", "eval") if r["control"] == "noise_frames")
    assert {k: recorded[k] for k in figures} == figures


def test_the_table_shows_every_figure(
    tiny_run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    model, data = tiny_run / "models" / "backbone", tiny_data / "held_out"
    words = ["eval", str(model), "--data", str(data), "--max-questions", "1", "--num-frames", "2", "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr().out
    for name in ("moment_retrieval r1_0.5", "dense_captioning f1", "highlight_detection hit1", "parse_rate"):
        assert name in said
    assert "│ questions" in said and " 3 │" in said  # one of each task


def test_what_cannot_be_evaluated_is_said(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run / "models" / "sft", tmp_path / "model")
    for words, message in [
        ([tiny_run, "--batch-size", "0"], "--batch-size (0) must be 1 or more."),
        ([tiny_run, "--max-questions", "-1"], "--max-questions (-1) must be 1 or more."),
        ([tmp_path / "nowhere"], "nowhere: neither a model folder"),
        ([tmp_path / "model"], "no config.json, so it names no held-out data. Give a shard folder with --data."),
        ([tiny_run, "--data", tmp_path], "no dataset.json, so not a shard folder"),
        (
            [tiny_run, "--data", tiny_data / "images"],
            "holds no moment retrieval, dense captioning or highlight question",
        ),
        ([tiny_run, "--predictions", "/dev/null/p.jsonl"], "/dev/null/p.jsonl: cannot be written: Not a directory."),
        ([tiny_run, "--device", "cuda:99"], "device 'cuda:99' cannot be used"),
    ]:
        assert main(["eval", *map(str, words)]) == 2
        said = capsys.readouterr().err
        assert message.replace("config.json", "config.yaml") in said and "Traceback" not in said
