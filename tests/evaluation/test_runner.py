from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from timeexpert.data.records import Sample
from timeexpert.evaluation import EvaluationError
from timeexpert.evaluation.records import Answer
from timeexpert.evaluation.runner import (
    choose,
    evaluate,
    mean_segment,
    score,
    scored_questions,
)
from timeexpert.tokenization import Event, EventSequence


def events(*items: Event) -> EventSequence:
    return EventSequence(items)


def question(id: str, task: str, *items: Event, **fields: Any) -> Sample:
    return Sample(id=id, video=f"{id}.mp4", task=task, prompt="?", events=events(*items), duration_s=10.0, **fields)


MOMENTS = [
    question("a", "moment_retrieval", Event(0, 4)),
    question("b", "moment_retrieval", Event(2, 6)),
    question("c", "moment_retrieval", Event(5, 10)),
    question("d", "moment_retrieval", Event(0, 10)),
]
MISSED = Answer(None, error="d.mp4: the file is empty (0 bytes).")


def test_moments_by_hand() -> None:
    answers = [
        Answer(events(Event(0, 4))),  # IoU 1
        Answer(events(Event(4, 8))),  # 2 of 6 seconds: 1/3
        Answer(EventSequence()),  # says nothing: a miss
        MISSED,  # cannot be read: a miss as well
    ]
    figures = score(MOMENTS, answers)
    assert figures["moment_retrieval"]["r1_0.3"] == 50.0
    assert figures["moment_retrieval"]["r1_0.5"] == 25.0
    assert figures["moment_retrieval"]["miou"] == pytest.approx(100 * (1 + 1 / 3) / 4)
    assert figures["moment_retrieval"]["count"] == 4
    assert figures["parse_rate"] == 75.0
    assert (figures["unreadable"], figures["questions"]) == (1, 4)


def test_what_cannot_be_read_or_parsed_stays_in_the_denominator_of_every_task() -> None:
    samples = [
        question("m", "moment_retrieval", Event(0, 4)),
        question("m2", "moment_retrieval", Event(0, 4)),
        question("d", "dense_captioning", Event(0, 4, text="x")),
        question("d2", "dense_captioning", Event(0, 4, text="x")),
        question("h", "highlight_detection", Event(1, 1, (4,)), Event(3, 3, (1,))),
        question("h2", "highlight_detection", Event(1, 1, (4,)), Event(3, 3, (1,))),
    ]
    right = [Answer(s.events) for s in samples]
    assert score(samples, right)["parse_rate"] == 100.0
    for bad in (MISSED, Answer(events(Event(0, 4)), [{"position": 3, "reason": "no end"}])):
        half = [right[0], bad, right[2], bad, right[4], bad]
        figures = score(samples, half)
        assert figures["moment_retrieval"]["r1_0.5"] == 50.0
        assert figures["dense_captioning"]["f1"] == pytest.approx(50.0)
        assert figures["highlight_detection"]["hit1"] == 50.0
        assert figures["parse_rate"] == 50.0
        assert figures["unreadable"] == (3 if bad.error else 0)


def test_no_questions_have_no_figures() -> None:
    assert score([], []) == {"parse_rate": None, "unreadable": 0, "questions": 0}


def test_qvhighlights_scores_of_several_annotators_are_read_from_meta() -> None:
    meta = {"relevant_clip_ids": [1, 2], "saliency_scores": [[4, 1, 4], [1, 1, 1]]}
    sample = question("h", "highlight_detection", Event(3, 3, (3,)), meta=meta)
    assert score([sample], [Answer(events(Event(3, 3, (5,))))])["highlight_detection"]["hit1"] == 100.0
    assert score([sample], [Answer(events(Event(5, 5, (5,))))])["highlight_detection"]["hit1"] == 0.0


def test_the_mean_segment_is_the_mean_start_and_end_of_the_training_set_for_every_question() -> None:
    training = [
        question("t", "moment_retrieval", Event(0, 2)),
        question("u", "moment_retrieval", Event(2, 8)),
        question("v", "dense_captioning", Event(9, 10)),  # another task: not counted
    ]
    assert mean_segment(MOMENTS, training) == [Answer(events(Event(1.0, 5.0)))] * 4
    figures = score(MOMENTS, mean_segment(MOMENTS, training))
    # with [1, 5]: 3/5, 3/5, 0, 4/10
    assert figures["moment_retrieval"]["miou"] == pytest.approx(100 * (0.6 + 0.6 + 0 + 0.4) / 4)
    assert figures["moment_retrieval"]["r1_0.5"] == 50.0
    assert mean_segment(MOMENTS, training[2:]) == [Answer(EventSequence())] * 4


def test_chosen_questions_are_spread_evenly_and_general_ones_left_out() -> None:
    samples = [question(f"m{i}", "moment_retrieval", Event(0, 1)) for i in range(9)]
    samples += [question("g", "general", Event(text="yes")), question("d", "dense_captioning", Event(0, 1))]
    assert [s.id for s in choose(samples, 3)] == ["m0", "m4", "m8", "d"]
    assert [s.id for s in choose(samples, 1)] == ["m0", "d"]
    assert len(choose(samples, None)) == 10


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (question("m", "moment_retrieval", Event(text="yes")), "moment_retrieval question 'm' cannot be scored: truth"),
        (question("d", "dense_captioning", Event(text="yes")), "dense_captioning question 'd' cannot be scored: d "),
        (
            question(
                "h",
                "highlight_detection",
                Event(3, 3, (3,)),
                meta={"relevant_clip_ids": [5], "saliency_scores": [[4]]},
            ),
            r"question 'h' cannot be scored: relevant_clip_ids holds 5, but a video of 10.0 s has clips 0 to 4",
        ),
        (
            question("h", "highlight_detection", Event(3, 3, (3,)), meta={"saliency_scores": [[4]]}),
            "question 'h' cannot be scored: meta lacks 'relevant_clip_ids'.",
        ),
        (
            question("g", "general", Event(text="yes")),
            "holds no moment retrieval, dense captioning, highlight detection or action",
        ),
    ],
)
def test_truth_that_cannot_be_scored_is_named_before_anything_is_asked(sample: Sample, words: str) -> None:
    good = MOMENTS if sample.task != "general" else []
    with pytest.raises(EvaluationError, match=rf"^shards: .*{words}"):
        scored_questions([*good, sample], None, "shards")
    assert scored_questions(MOMENTS, 2, "shards") == [MOMENTS[0], MOMENTS[3]]


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    def never(asked: Sequence[Sample]) -> list[Answer]:
        raise AssertionError("asked")

    (tmp_path / "file").write_text("mine")
    for file, words in [
        (tmp_path / "file" / "p.jsonl", "file/p.jsonl: cannot be written: Not a directory. Choose"),
        (tmp_path, ": is there and not a file; predictions need a file. Choose another one."),
    ]:
        with pytest.raises(EvaluationError, match=words):
            next(evaluate(MOMENTS, never, batch_size=2, predictions=file))


def test_batches_hold_one_kind_of_question_and_answers_return_to_their_places(tmp_path: Path) -> None:
    samples = [
        question("a", "moment_retrieval", Event(0, 4)),
        question("b", "dense_captioning", Event(0, 4, text="x")),
        question("c", "moment_retrieval", Event(2, 6)),
    ]
    batches = []

    def answer(asked: Sequence[Sample]) -> list[Answer]:
        batches.append([s.id for s in asked])
        return [MISSED if s.id == "c" else Answer(s.events, frame_times_s=[0.5], duration_s=10.0) for s in asked]

    steps = list(evaluate(samples, answer, batch_size=2, predictions=tmp_path / "new" / "p.jsonl"))
    assert batches == [["b", "a"], ["c"]]
    assert [done for done, _ in steps] == [2, 3, 3]
    assert [figures for _, figures in steps[:-1]] == [None, None]
    assert steps[-1][1]["moment_retrieval"]["r1_0.7"] == 50.0  # type: ignore[index]
    rows = [json.loads(line) for line in (tmp_path / "new" / "p.jsonl").read_text().splitlines()]
    assert [r["id"] for r in rows] == ["a", "b", "c"]
    assert rows[0] == {
        "id": "a",
        "video": "a.mp4",
        "task": "moment_retrieval",
        "prompt": "?",
        "duration_s": 10.0,
        "truth": [{"start_s": 0.0, "end_s": 4.0, "scores": [], "text": ""}],
        "prediction": [{"start_s": 0.0, "end_s": 4.0, "scores": [], "text": ""}],
        "text": "",
        "problems": [],
        "frame_times_s": [0.5],
        "video_duration_s": 10.0,
        "error": None,
        "meta": {},
    }
    assert rows[2]["prediction"] is None and rows[2]["error"] == MISSED.error
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["p.jsonl"]


def test_moments_of_several_segments_are_scored_apart_from_those_of_one() -> None:
    def moment(*segments: tuple[float, float]) -> Sample:
        events = EventSequence(tuple(Event(a, b, text="x") for a, b in segments))
        return Sample(id=f"{len(segments)}", video="a.mp4", task="moment_retrieval", prompt="When?", events=events)

    one, two = moment((0, 4)), moment((0, 4), (6, 10))
    half = Answer(EventSequence((Event(0, 4, text="x"),)))
    assert "multi_segment" not in score([one], [half])
    figures = score([one, two], [half, half])
    assert figures["multi_segment"]["questions"] == figures["single_segment"]["questions"] == 1
    # precision 1, recall 1/2 at every threshold
    assert figures["multi_segment"]["f1"] == pytest.approx(200 / 3)
    assert figures["single_segment"]["r1_0.5"] == 100.0
