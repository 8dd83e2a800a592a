"""Samples as MUSEG's lines: one question per phrase and video, with all its segments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from timeexpert.cli import main
from timeexpert.data.records import Sample, read_samples, write_samples
from timeexpert.tokenization import Event, EventSequence


def sample(name: str, *events: Event, video: str = "a.mp4", task: str = "dense_captioning") -> Sample:
    return Sample(id=name, video=video, task=task, prompt="What?", events=EventSequence(events), duration_s=60.0)


def test_moments_of_one_phrase_become_one_question_that_converts_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, lines, back = (tmp_path / name for name in ("samples.jsonl", "lines.jsonl", "back.jsonl"))
    write_samples(
        there,
        [
            sample("1", Event(20.0, 25.0, text="A dog jumps."), Event(1.0, 4.0, text="a cat's nap")),
            sample("2", Event(3.0, 5.0, text="a dog  jumps"), task="moment_retrieval"),
            sample("3", Event(4.0, 9.0, text="a dog jumps"), task="moment_retrieval"),
            sample("4", Event(1.0, 2.0, text="a dog jumps"), video="b.mp4"),
            sample("5", Event(text="red"), task="general"),
            sample("6", Event(1.0, 2.0), Event(3.0, 3.0, text="a flash")),
        ],
    )
    assert main(["data", "convert", "samples", str(there), "-o", str(lines), "--to", "museg", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == {"tal": 1, "tvg": 2}
    assert report["rejected"] == {"unsupported": 1, "no_phrase": 1, "zero_length": 1}
    rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [(r["idx"], r["video"], r["task"], r["solution"], r["duration"]) for r in rows] == [
        (0, "a.mp4", "tal", [[3.0, 9.0], [20.0, 25.0]], 60.0),
        (1, "a.mp4", "tvg", [[1.0, 4.0]], 60.0),
        (2, "b.mp4", "tvg", [[1.0, 2.0]], 60.0),
    ]
    assert main(["data", "convert", "auto", str(lines), "-o", str(back)]) == 0
    again = [s for _, s in read_samples(back)]
    assert [s.events.segments_s for s in again] == [[tuple(p) for p in r["solution"]] for r in rows]  # type: ignore[union-attr]
    assert [s.events[0].text for s in again] == ["A dog jumps", "a cat's nap", "a dog jumps"]  # type: ignore[union-attr]


def test_a_question_that_would_lack_a_segment_is_rejected_wherever_the_bad_event_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, lines = tmp_path / "samples.jsonl", tmp_path / "lines.jsonl"
    write_samples(
        there,
        [
            sample("1", Event(1.0, 4.0, text="A dog jumps."), Event(5.0, 6.0, text="a cat")),
            sample("2", Event(3.0, 3.0, text="a flash"), Event(9.0, 9.0, text="a dog jumps")),
            sample("3", Event(7.0, 9.0, text="a dog jumps")),
            sample("4", Event(7.0, 9.0, text="a dog jumps"), video="b.mp4"),
        ],
    )
    assert main(["data", "convert", "samples", str(there), "-o", str(lines), "--to", "museg", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rejected"] == {"zero_length": 2, "incomplete": 1}
    rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [(r["idx"], r["video"], r["solution"]) for r in rows] == [
        (0, "a.mp4", [[5.0, 6.0]]),
        (1, "b.mp4", [[7.0, 9.0]]),
    ]
    rejected = [json.loads(line) for line in (tmp_path / "lines.rejected.jsonl").read_text("utf-8").splitlines()]
    (lost,) = [r for r in rejected if r["kind"] == "incomplete"]
    assert lost["where"] == "2" and lost["row"]["solution"] == [[1.0, 4.0], [7.0, 9.0]]
    assert lost["reason"] == "'A dog jumps' in a.mp4 happens once more, in an event without length"
