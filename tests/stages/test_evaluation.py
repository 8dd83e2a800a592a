"""Evaluation of a real run: its controls, and videos that cannot be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tiny import rows
from timeexpert.data.shards import ShardDataset
from timeexpert.evaluation.runner import choose, mean_segment, score
from timeexpert.predict import Predictor
from timeexpert.stages.answers import answerer
from timeexpert.stages.tables import flat_figures, summary_table


def test_a_video_that_cannot_be_read_is_a_miss_in_an_unchanged_denominator(
    tiny_run: Path, with_empty_video: Path
) -> None:
    dataset = ShardDataset(with_empty_video)
    samples = choose([dataset.sample(i) for i in range(len(dataset))], None)
    answers = answerer(Predictor.from_pretrained(tiny_run, device="cpu"), dataset)(samples)
    (lost,) = [a for s, a in zip(samples, answers, strict=True) if s.id == "empty/0"]
    assert lost.events is None and lost.error == "empty.mp4: the file is empty (0 bytes). Download or copy it again."
    figures = score(samples, answers)
    assert figures["unreadable"] == 1
    assert figures["questions"] == len(samples)
    assert figures["moment_retrieval"]["count"] == sum(s.task == "moment_retrieval" for s in samples)
    assert figures["parse_rate"] == pytest.approx(100 * (len(samples) - 1) / len(samples))
    assert flat_figures(figures)["unreadable"] == 1


def test_a_time_that_the_model_cannot_write_is_an_unreadable_video_and_no_crash(
    tiny_run: Path, tiny_data: Path
) -> None:
    from timeexpert.data.collate import EventWriter
    from timeexpert.tokenization import EventCodec, NumberFormat

    predictor = Predictor.from_pretrained(tiny_run, device="cpu")
    predictor.answering.writer = EventWriter(
        EventCodec(predictor.text, NumberFormat(1, 1), NumberFormat(1, 1)), predictor.text
    )
    dataset = ShardDataset(tiny_data / "held_out")
    sample = dataset.sample(0)
    read = predictor.reader.read
    predictor.reader.read = lambda *a: (read(*a)[0], read(*a)[1] + 8, 12.0)  # type: ignore[method-assign]
    (answer,) = answerer(predictor, dataset)([sample])
    assert answer.error is not None
    assert re.match(r"1\d\.\d+ needs more than 1 digits before the point; the largest number of format", answer.error)


def test_the_noise_control_asks_the_same_questions_about_other_frames(tiny_run: Path) -> None:
    real, noise = (rows(tiny_run / "predictions" / f"{name}.jsonl") for name in ("sft", "sft.noise_frames"))
    for a, b in zip(real, noise, strict=True):
        for name in ("id", "prompt", "truth", "frame_times_s", "duration_s"):
            assert a[name] == b[name]


def test_controls_are_recorded_after_the_last_stage_with_their_figures(tiny_run: Path, tiny_data: Path) -> None:
    evals = rows(tiny_run / "metrics.jsonl", "eval")
    assert [(e["stage"], e["control"]) for e in evals] == [
        ("sft", None),
        ("sft", "noise_frames"),
        ("sft", "mean_segment"),
    ]
    held_out, training = ShardDataset(tiny_data / "held_out"), ShardDataset(tiny_data / "videos")
    moments = [s for s in map(held_out.sample, range(len(held_out))) if s.task == "moment_retrieval"]
    seen = [training.sample(i) for i in range(len(training))]
    expected = score(moments, mean_segment(moments, seen))
    assert {k: evals[2][k] for k in expected} == expected
    assert evals[0]["parse_rate"] == evals[1]["parse_rate"] == 100.0


def test_the_table_shows_figures_that_are_missing_as_dashes() -> None:
    figures = {"parse_rate": 100.0, "unreadable": 0, "questions": 1}
    summary = {"stages": [{"name": "sft", **figures}], "controls": {"mean_segment": {"r1_0.5": 12.345, **figures}}}
    columns = [list(column.cells) for column in summary_table(summary).columns]
    assert columns[0] == ["after sft", "control: mean segment"]
    assert columns[1] == ["-", "12.3"]
