"""An evaluation folder survives what kills an evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample
from timeexpert.evaluation import EvaluationError
from timeexpert.evaluation.folder import EvaluationFolder
from timeexpert.evaluation.records import Answer, answer_of_row, answer_row
from timeexpert.tokenization import Event, EventSequence

SETTINGS = {"format": 1, "model": "abc", "num_frames": 8}
QUESTIONS = [
    Sample(id=f"q{i}", video="v.mp4", task="moment_retrieval", prompt="?", events=EventSequence([Event(0, 4)]))
    for i in range(4)
]
ANSWER = Answer(
    EventSequence([Event(1.5, 2.5, (0.5,), "caf\u00e9")]), [{"position": 3, "reason": "no end"}], [0.5], 9.5, None,
    "<sync>", 2, 0.25, 1.5,
)  # fmt: skip


def test_an_answer_comes_back_as_it_was_kept() -> None:
    shown = replace(ANSWER, tracks=(MaskTrack.from_masks([np.eye(4), np.zeros((4, 4))], [0.5, 2.5], "dog"),))
    for answer in (ANSWER, shown, Answer(None, frame_times_s=[], error="v.mp4: empty")):
        assert answer_of_row(json.loads(json.dumps(answer_row(QUESTIONS[0], answer)))) == answer


def test_an_answer_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    folder = EvaluationFolder(tmp_path)
    with folder.opened(SETTINGS):
        folder.predictions.mkdir()
        with pytest.raises(EvaluationError, match=r"predictions\.jsonl: cannot be written: Is a directory"):
            folder.append(QUESTIONS[:1], [ANSWER])


def test_ranks_write_apart_and_one_file_in_the_order_of_the_questions_is_left(tmp_path: Path) -> None:
    main, other = EvaluationFolder(tmp_path), EvaluationFolder(tmp_path, rank=1)
    with main.opened(SETTINGS) as answered:
        assert answered == set()
        other.append(QUESTIONS[3:0:-2], [ANSWER, ANSWER])
        main.append(QUESTIONS[2::-2], [ANSWER, ANSWER])
        assert main.merge(QUESTIONS) == [ANSWER] * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "predictions.jsonl", "settings.json"]
    rows = [json.loads(line) for line in main.predictions.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["q0", "q1", "q2", "q3"]


def test_answers_of_a_stopped_run_with_more_ranks_are_kept(tmp_path: Path) -> None:
    EvaluationFolder(tmp_path, rank=3).append(QUESTIONS[:1], [ANSWER])
    with EvaluationFolder(tmp_path).opened(SETTINGS) as answered:
        assert answered == {"q0"}


@pytest.mark.parametrize("tail", [b'{"id": "q2", "predic', b"\0\0\0\0", b"\0\0\n", b'{"id": "q2"}\n'])
def test_a_torn_end_is_cut_off_and_asked_again(tmp_path: Path, tail: bytes) -> None:
    folder = EvaluationFolder(tmp_path)
    with folder.opened(SETTINGS):
        folder.append(QUESTIONS[:2], [ANSWER, ANSWER])
    whole = folder.predictions.read_bytes()
    folder.predictions.write_bytes(whole + tail)
    with folder.opened(SETTINGS) as answered:
        assert answered == {"q0", "q1"}
        assert folder.predictions.read_bytes() == whole
        folder.append(QUESTIONS[2:], [ANSWER, ANSWER])
        assert len(folder.merge(QUESTIONS)) == 4


def test_a_bad_line_in_the_middle_is_named(tmp_path: Path) -> None:
    folder = EvaluationFolder(tmp_path)
    with folder.opened(SETTINGS):
        folder.append(QUESTIONS[:2], [ANSWER, ANSWER])
    first, second = folder.predictions.read_bytes().splitlines(keepends=True)
    folder.predictions.write_bytes(first + b"nonsense\n" + second)
    with (
        pytest.raises(EvaluationError, match=r"predictions.jsonl:2: not an answer .*Delete this line"),
        folder.opened(SETTINGS),
    ):
        pass


def test_other_settings_a_second_evaluation_and_a_question_without_an_answer_are_refused(tmp_path: Path) -> None:
    folder = EvaluationFolder(tmp_path)
    with folder.opened(SETTINGS):
        with pytest.raises(EvaluationError, match=r"4 questions have no answer, 'q0' among them"):
            folder.merge(QUESTIONS)
    with pytest.raises(EvaluationError, match=r"another num_frames \(8\), now 16. Give another -o"):
        with folder.opened({**SETTINGS, "num_frames": 16}):
            pass
    (tmp_path / "settings.json").unlink()
    folder.predictions.write_text("")
    with pytest.raises(EvaluationError, match=r"holds predictions.jsonl but no settings.json"), folder.opened(SETTINGS):
        pass
