"""Action segmentation from made-up videos to a page: trained, evaluated with its control, asked, drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.families.test_temporal_vlm_runs import MODEL as TEMPORAL_VLM
from tests.tiny import STAGE, VIDEOS, rows, run_config, train
from timeexpert.cli import main
from timeexpert.data.build import build
from timeexpert.data.scenes import SynthConfig
from timeexpert.data.synthetic import synthesise
from timeexpert.reports.run_report import write_report

STEPS = replace(
    VIDEOS,
    actions=4,
    min_duration_s=8.0,
    max_duration_s=9.0,
    min_events=2,
    max_events=3,
    tasks=("action_segmentation",),
)
NAMES = ("accuracy", "edit", "f1_0.1", "f1_0.25", "f1_0.5")


def made(root: Path, name: str, config: SynthConfig) -> None:
    list(synthesise(config, root / f"{name}.raw"))
    build(root / f"{name}.raw" / "samples.jsonl", root / f"{name}.raw" / "media", root / name)


@pytest.mark.parametrize("family", ["timeexpert", "temporal_vlm"])
def test_a_run_on_videos_of_steps(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    made(data, "steps", STEPS)
    made(data, "held_out", replace(STEPS, videos=2, seed=9))
    words = family == "temporal_vlm"  # which does not parse before it has learned to write
    kind = "from_scratch" if words else "backbone"
    stage = {**STAGE, "name": "sft", "kind": kind, "steps": 2, "mix": {"steps": 1}, "num_frames": [4]}
    config = run_config(
        data,
        data={"root": str(data), "train": {"steps": "steps"}, "eval": "held_out"},
        stages=[stage],
        eval={"num_frames": 4, "batch_size": 2, "max_new_tokens": 60, "max_events": 2},
        **({"model": TEMPORAL_VLM} if words else {}),
    )
    summary = train(config, run)
    for figures in (*summary["stages"], summary["controls"]["noise_frames"]):
        assert figures["questions"] == 2 and (words or figures["parse_rate"] == 100.0)
        assert all(0 <= figures[name] <= 100 for name in NAMES)
    drawn = rows(run / "metrics.jsonl", "drawn")
    assert [row["datasets"]["steps"]["questions"] for row in drawn] == [2, 2]  # a video has one question: its steps

    assert main(["eval", str(run), "--json", "--no-intervals", "--device", "cpu"]) == 0
    evaluated = json.loads(capsys.readouterr().out)["action_segmentation"]
    assert [round(evaluated[name], 2) for name in NAMES] == [summary["stages"][-1][name] for name in NAMES]
    page = (run / "eval" / "held_out" / "report.html").read_text()
    assert page.count('<svg class="steps"') == 2 and '<div class="classes">' in page

    video = data / "held_out.raw" / "media" / "actions-009-00000.mp4"
    picture = tmp_path / "steps.png"
    asked = ["--task", "action_segmentation", "--png", str(picture), "--device", "cpu"]
    assert main(["predict", str(run), str(video), "Which actions follow one another, and when?", *asked]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_examples_of_a_run_are_drawn_with_their_label_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from timeexpert.reports import run_report
    from timeexpert.reports.run_report import Example
    from timeexpert.tokenization import Event, EventSequence

    drawn: list[tuple[str, ...]] = []
    original = run_report.draw_steps
    monkeypatch.setattr(run_report, "draw_steps", lambda *args: drawn.append(args[-1]) or original(*args))
    events = EventSequence((Event(0, 1, text="cut"),))
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    steps = Example(frames, [0.0], events, events, "?", 2.0, "a.mp4", ("cut", "fry"))
    write_report(tmp_path, [steps, replace(steps, classes=None)])
    assert drawn == [("cut", "fry")]
    assert (tmp_path / "report.html").read_text().count("<figure>") == 2
