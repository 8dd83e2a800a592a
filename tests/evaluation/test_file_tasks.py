"""Tasks that read files of their own: what is said of bad ones, and that each file is read once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from timeexpert.evaluation import EvaluationError, file_tasks
from timeexpert.evaluation.file_tasks import FILE_TASKS, Given

MASK = {"size": [2, 2], "counts": [1, 1, 2]}  # one pixel
QUESTIONS: list[dict[str, Any]] = [
    {"id": "a", "kind": "when", "segment_s": [0, 2]},
    {"id": "b", "kind": "where", "segment_s": [0, 2], "frame_times_s": [0, 1], "masks": [MASK, MASK]},
    {"id": "c", "kind": "combined", "segment_s": [0, 2], "frame_times_s": [0, 1], "masks": [MASK, None]},
]
ANSWERS = [
    {"id": "a", "segment_s": [0, 2]},
    {"id": "b", "masks": [MASK, MASK]},
    {"id": "c", "segment_s": [0, 2], "masks": [MASK, None]},
]
DEEP, LONG = "[" * 5000, "7" * 5000
TVG = {"task": "tvg", "source": "charades_sta", "tgt": [1, 3]}


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def score(task: str, predictions: Path, references: Path) -> dict[str, Any]:
    return FILE_TASKS[task].score(Given(predictions, references), "strict", None)[0].to_json()


def test_the_kinds_of_loombench_share_one_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    for name in ("read_questions", "read_answers"):
        real = getattr(file_tasks, name)
        monkeypatch.setattr(file_tasks, name, lambda *a, real=real, name=name: (read.append(name), real(*a))[1])
    given = Given(lines(tmp_path / "p.jsonl", ANSWERS), lines(tmp_path / "r.jsonl", QUESTIONS))
    found = {k: FILE_TASKS[f"loombench_{k}"].score(given, "strict", None)[0] for k in ("when", "where", "combined")}
    assert {kind: scores.figures()["tiou" if kind == "when" else "jf"] for kind, scores in found.items()} == {
        "when": 100.0, "where": 100.0, "combined": 100.0,
    }  # fmt: skip
    assert read == ["read_questions", "read_answers"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([QUESTIONS[0], QUESTIONS[1], QUESTIONS[0]], r"r\.jsonl:3: id 'a' stands in r\.jsonl:1 already\. Give every"),
        (
            [QUESTIONS[0], '{"id": ' + DEEP],
            r"r\.jsonl:2: not JSON that can be read: nested too deeply\. Corr",
        ),
        (['{"id": "a", "segment_s": [0, ' + LONG + "]}"], r"r\.jsonl:1: integer 7{20}\.\.\. is too large; .*\. C"),
        ([{"kind": "when"}], r"r\.jsonl:1: a question must be an object with a string id\. Correct the row\."),
    ],
)
def test_a_bad_question_of_loombench_is_named_by_its_line(tmp_path: Path, rows: list[Any], words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        score("loombench_when", lines(tmp_path / "p.jsonl", ANSWERS), lines(tmp_path / "r.jsonl", rows))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"r\.json: no such file\. Give a list of E\.T\. Bench rows\."),
        ('[{"task":', r"r\.json:1: not JSON: .*\. Is the file complete\?"),
        (
            '[{"tgt":\n' + LONG + "}]",
            r"r\.json:2: not JSON that can be read: an integer of more than 4300 digits\.",
        ),
        (DEEP, r"r\.json:1: not JSON that can be read: nested too deeply\. Correct it\."),
        ('{"task": "tvg"}', r"r\.json: must be a list of objects"),
        (
            json.dumps([TVG | {"idx": 4}, TVG | {"idx": 5}, TVG | {"idx": 4}]),
            r"r\.json: row 2 has the task, source and idx of row 0 \(tvg charades_sta 4\)\. Give every question",
        ),
    ],
)
def test_a_file_that_is_no_rows_of_etbench_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    (tmp_path / "p.json").write_text("[]")
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    with pytest.raises(EvaluationError, match=words):
        score("etbench_tvg", tmp_path / "p.json", tmp_path / "r.json")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"qid": 1, "label": [[1], [0]]}] * 2, r"r\.jsonl:2: qid '1' stands in r\.jsonl:1 already\. Give every row"),
        ([{"qid": 1, "label": [[1], [0]]}, {"qid": 2}], r"r\.jsonl:2: a line must be an object with qid and label"),
        (['{"qid": 1, "label": ' + DEEP], r"r\.jsonl:1: not JSON that can be read: nested too deeply\. C"),
        ([], r"r\.jsonl: holds no line\. Give objects with qid and label"),
    ],
)
def test_a_bad_file_of_clip_labels_is_refused(tmp_path: Path, rows: list[Any], words: str) -> None:
    told = lines(tmp_path / "p.jsonl", [{"qid": 1, "pred_saliency_scores": [1, 0]}])
    with pytest.raises(EvaluationError, match=words):
        score("youtube_highlights", told, lines(tmp_path / "r.jsonl", rows))


def test_two_files_of_labels_of_one_video_are_refused(tmp_path: Path) -> None:
    for name in ("truth", "told"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "v1.txt").write_text("cut\n")
    assert score("frame_labels", tmp_path / "told", tmp_path / "truth")["accuracy"] == 100.0
    (tmp_path / "told" / "v1").write_text("pour\n")
    with pytest.raises(EvaluationError, match=r"v1\.txt: v1 beside it is of the same video\. Keep one"):
        score("frame_labels", tmp_path / "told", tmp_path / "truth")
