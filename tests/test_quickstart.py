from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.tiny import KINDS, write_config
from timeexpert.cli import main
from timeexpert.config import load
from timeexpert.stages.config import RunConfig
from timeexpert.stages.run_folder import RunFolder


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

    proposed = [shlex.split(line) for line in said.splitlines() if line.startswith("  timeexpert predict ")]
    assert len({command[-1] for command in proposed}) == len(proposed) > 1  # one for each task
    monkeypatch.chdir(tmp_path)
    for command in proposed:
        assert main(command[1:]) == 0  # what it proposes works as it stands
    assert list(tmp_path.glob("*.timeline.png"))

    assert main(words) == 0
    assert (run / "metrics.jsonl").read_bytes() == metrics
    assert {p: p.stat().st_mtime_ns for p in made} == made
    again = json.loads((run / "summary.json").read_text())
    assert {k: v for k, v in again.items() if k != "peak_rss_gib"} == {
        k: v for k, v in summary.items() if k != "peak_rss_gib"
    }  # nothing was done, so no time was spent
    assert again["peak_rss_gib"] >= summary["peak_rss_gib"]

    capsys.readouterr()
    shutil.rmtree(run / "data" / "held_out.raw")  # the shards hold the videos too
    assert main(words) == 0
    assert f"timeexpert predict {run} VIDEO.mp4" in capsys.readouterr().out

    (run / "config.yaml").unlink()  # nothing says any more what the data are, but they do themselves
    assert main([*words, "synth.videos.seed=7"]) == 2
    assert "videos.raw/synth.json: this folder holds videos of another configuration." in capsys.readouterr().err


def test_another_config_is_refused_before_any_data_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synth = {name: json.loads(json.dumps(asdict(config))) for name, config in KINDS.items()}
    config, run = write_config(tmp_path, tmp_path / "tiny.yaml", synth=synth), tmp_path / "run"
    words = ["quickstart", "--config", str(config), "--out", str(run)]
    assert main([*words, "--device", "cuda:99"]) == 2  # refused as well, and nothing was saved
    assert "device 'cuda:99' cannot be used" in capsys.readouterr().err
    assert not (run / "config.yaml").exists()
    RunFolder(run).settle(load(RunConfig, config))
    assert main([*words, "--device", "cpu", "synth.videos.seed=7"]) == 2
    assert "another config: synth.videos.seed was 1, is 7." in capsys.readouterr().err
    assert not (run / "data").exists()


def test_a_config_without_the_data_to_make_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, tmp_path / "tiny.yaml")
    assert main(["quickstart", "--config", str(config), "--out", str(tmp_path / "run")]) == 2
    assert (
        "synth lacks 'images'; quickstart makes every data set of data.train and data.eval" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
