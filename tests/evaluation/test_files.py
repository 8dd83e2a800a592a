"""Predictions and references in the shapes that people have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.evaluation.oracles import cases
from timeexpert.evaluation import EvaluationError
from timeexpert.evaluation.files import FORMATS, match, read_predictions, read_references
from timeexpert.evaluation.results import Scored, to_json
from timeexpert.evaluation.tasks import TASKS, score_task

COCO = {
    "annotations": [
        {"image_id": "a.mp4", "caption": "a dog jumps.", "timestamp": [2, 6], "id": 0},
        {"image_id": "a.mp4", "caption": "a cat sleeps.", "timestamp": [0, 4.5], "id": 1},
    ]
}
QVH = [
    {
        "qid": qid, "query": "q", "vid": f"v{qid}_0.0_10.0", "duration": 10, "relevant_windows": [[0, 4], [6, 8]],
        "relevant_clip_ids": [0, 1, 3], "saliency_scores": [[4, 4, 1], [2, 2, 2], [1, 0, 0]],
    }
    for qid in (7, 8)
]  # fmt: skip
DENSE = {"a": {"duration": 9.0, "timestamps": [[4, 8], [0, 12.5]], "sentences": [" second first.", "past the end."]}}


def write(path: Path, value: Any) -> Path:
    lines = isinstance(value, list) and path.suffix == ".jsonl"
    text = value if isinstance(value, str) else "\n".join(map(json.dumps, value)) if lines else json.dumps(value)
    path.write_text(text, encoding="utf-8")
    return path


def scores(tmp_path: Path, task: str, references: Any, predictions: Any, name: str) -> dict[str, Any]:
    """Everything ``timeexpert score`` would state of ``task``."""
    refs = read_references(write(tmp_path / f"references{Path(name).suffix}", references), TASKS[task].asks)
    told = match(refs, read_predictions(write(tmp_path / name, predictions)))
    samples = [r.sample for r in refs]
    one = Scored(samples, told.told, score_task(TASKS[task], samples, told.told))
    stated: dict[str, Any] = to_json({task: one}, with_intervals=False)["tasks"][task]
    return stated


def test_an_annotation_is_named_by_its_id_wherever_it_stands(tmp_path: Path) -> None:
    rows = [{**row, "id": number} for row, number in zip(COCO["annotations"], (1, 0), strict=True)]
    right = {"1": {"timestamp": [[2, 6]]}, "0": {"timestamp": [[0, 4.5]]}}
    assert scores(tmp_path, "moment_retrieval", {"annotations": rows}, right, "p.json")["figures"]["miou"] == 100.0


@pytest.mark.parametrize("convention", ["timechat", "trace"])
def test_published_files_give_the_published_figures(shared: Path, tmp_path: Path, convention: str) -> None:
    compared = 0
    for name, inputs, expected in cases(shared, "tvg_recall_at_1", convention):
        if not name.startswith("charades/"):
            continue
        refs = read_references(write(tmp_path / "r.json", {"annotations": inputs["ground_truth"]}), "moment_retrieval")
        told = {number: {"timestamp": windows} for number, windows in inputs["predictions"].items()}
        matched = match(refs, read_predictions(write(tmp_path / "p.json", told)))
        figures = score_task(TASKS["moment_retrieval"], [r.sample for r in refs], matched.told, convention).figures()
        for threshold in (0.3, 0.5, 0.7):
            assert figures[f"r1_{threshold}"] == pytest.approx(expected[f"R@{threshold}"], abs=1e-9), name
        compared += 1
    assert compared >= 5


def test_timechat_grounding_is_named_by_the_number_of_the_annotation_and_an_empty_list_did_not_parse(
    tmp_path: Path,
) -> None:
    stated = scores(
        tmp_path, "moment_retrieval", COCO, {"0": {"timestamp": [[2, 6]]}, "1": {"timestamp": []}}, "p.json"
    )
    assert stated["figures"]["r1_0.7"] == 50.0
    assert {k: stated["counts"][k] for k in ("questions", "answered", "parsed", "missing")} == {
        "questions": 2, "answered": 2, "parsed": 1, "missing": 0,
    }  # fmt: skip


def test_what_is_missing_is_counted_and_scores_nothing_and_what_is_extra_is_named(tmp_path: Path) -> None:
    predictions = read_predictions(
        write(tmp_path / "p.json", {"1": {"timestamp": [0, 4.5]}, "99": {"timestamp": [1, 2]}})
    )
    refs = read_references(write(tmp_path / "r.json", COCO), "moment_retrieval")
    matched = match(refs, predictions)
    assert matched.told[0] is None and matched.told[1] is not None and matched.extra == ["99"]
    stated = scores(tmp_path, "moment_retrieval", COCO, {"1": {"timestamp": [0, 4.5]}}, "q.json")
    assert stated["figures"]["r1_0.3"] == 50.0 and stated["counts"]["missing"] == 1


@pytest.mark.parametrize(
    ("format", "name", "predictions"),
    [
        ("charades_sta", "p.txt", "a 2 6##A dog  jumps\na 0.0 4.5##a cat sleeps."),
        ("text", "p.json", [{"id": i, "text": t} for i, t in ((0, "From 2s to 6s."), (1, "0.0 - 4.5 seconds"))]),
        ("text", "p.json", {"0": "2 - 6", "1": "[0, 4.5]"}),
        ("trace", "p.json", [
            {"video": "x/a.mp4", "id": 0, "timestamps": [[2, 6], [7]], "scores": [[], []], "captions": ["a", "b"]},
            {"video": "x/a.mp4", "id": 1, "timestamps": [[0, 4.5]], "scores": [[]], "captions": ["c"]},
        ]),
        ("timechat_tvg", "p.json", {"0": {"timestamp": [2, 6], "vid": "a.mp4"}, "1": {"timestamp": [[0, 4.5]]}}),
    ],
)  # fmt: skip
def test_one_answer_in_many_shapes(tmp_path: Path, format: str, name: str, predictions: Any) -> None:
    assert read_predictions(write(tmp_path / name, predictions)).format == format
    refs = read_references(write(tmp_path / "references.json", COCO), "moment_retrieval")
    matched = match(refs, read_predictions(tmp_path / name))
    samples = [r.sample for r in refs]
    assert score_task(TASKS["moment_retrieval"], samples, matched.told).figures()["miou"] == pytest.approx(100.0)


def test_a_moment_detr_submission_serves_windows_and_clips(tmp_path: Path) -> None:
    rows = [
        {"qid": 7, "pred_relevant_windows": [[0, 4, 0.9], [6, 8, 0.5]], "pred_saliency_scores": [4, 2, 0, 1, 0]},
        {"qid": 8, "pred_relevant_windows": [], "pred_saliency_scores": [0, 0, 0, 0, 1]},
    ]
    windows = scores(tmp_path, "moment_map", QVH, rows, "p.jsonl")["figures"]
    assert windows["map"] == pytest.approx(50.0)
    clips = scores(tmp_path, "highlight_detection", QVH, rows, "p.jsonl")["figures"]
    assert clips["hit1"] == 50.0


def test_highlights_in_words_are_scored_and_those_in_no_known_form_did_not_parse(tmp_path: Path) -> None:
    rows = [
        {"qid": 7, "answer": "There are 3 highlight moments in the 0, 2, 6 second. Their saliency scores are 4, 2, 1."},
        {"qid": 8, "answer": "The dog jumps, which is the best part."},
    ]
    stated = scores(tmp_path, "highlight_detection", QVH, rows, "p.jsonl")
    assert stated["figures"]["hit1"] == 50.0
    assert {k: stated["counts"][k] for k in ("answered", "parsed")} == {"answered": 2, "parsed": 1}


def test_published_truth_is_taken_as_it_is_unsorted_and_past_the_end(tmp_path: Path) -> None:
    (reference,) = read_references(write(tmp_path / "val.json", DENSE), "dense_captioning")
    assert reference.sample.events.segments_s == [(4.0, 8.0), (0.0, 12.5)]
    assert reference.sample.duration_s is None and reference.sample.meta["published_duration_s"] == 9.0
    events = [{"timestamp": [4, 8], "sentence": "x"}, {"timestamp": [0, 12.5], "sentence": "y"}]
    for predictions in ({"results": {"v.mp4": [], "a": events}}, {"a.mp4": events}):
        stated = scores(tmp_path, "dense_captioning", DENSE, predictions, "p.json")
        assert stated["figures"]["f1"] == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**QVH[0], "relevant_windows": [[4, "x"]]}, r"references.jsonl:1: events\[0\] time \('x'\) must be a number"),
        (
            {**QVH[0], "relevant_windows": [[4, 1]]},
            r"references.jsonl:1: start_s \(4.0\) must not be after end_s \(1.0\)",
        ),
        ({**QVH[0], "relevant_windows": [[4, 4]]}, r"references.jsonl:1: events\[0\] has no length"),
        ({**QVH[0], "relevant_windows": None}, r"references.jsonl:1: relevant_windows is absent or null"),
        ({**QVH[0], "duration": -1}, r"references.jsonl:1: duration \(-1.0\) must be more than 0"),
    ],
)
def test_truth_that_cannot_be_scored_is_an_error_with_its_place(tmp_path: Path, row: Any, words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        read_references(write(tmp_path / "references.jsonl", [row]), "moment_retrieval")


@pytest.mark.parametrize("at", [0, 1])
def test_a_number_that_is_none_is_named_in_its_own_line(tmp_path: Path, at: int) -> None:
    row = {"query": "q", "vid": "v", "duration": 9, "relevant_windows": [[1, 2]]}
    lines = [json.dumps(row | {"qid": i, "duration": float("nan") if i == at else 9}) for i in range(2)]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    with pytest.raises(EvaluationError, match=rf"r\.jsonl:{at + 1}: NaN is not allowed; numbers must be finite\. C"):
        read_references(tmp_path / "r.jsonl", "moment_retrieval")


def test_repeated_ids_and_no_question_of_the_task_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "references.jsonl", [QVH[0], QVH[0]])
    with pytest.raises(EvaluationError, match=r"ces.jsonl:2: id '7:moments' stands in references.jsonl:1 already; ids"):
        read_references(path, "moment_retrieval")
    with pytest.raises(EvaluationError, match=r"holds no dense_captioning question"):
        read_references(path, "dense_captioning")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("once upon a time", r"not JSON, JSON lines or Charades-STA lines \(line 1 is 'once upon"),
        ("3", r"holds one int; predictions are lines, a list or an object"),
        (
            '[{"colour": 1}]',
            r"no known shape of predictions. Its first record is \{'colour': 1\}. Name it: --format ours,",
        ),
    ],
)
def test_a_file_that_is_no_predictions_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        read_predictions(write(tmp_path / "p.json", text))
    with pytest.raises(EvaluationError, match="Did you mean 'trace'"):
        read_predictions(write(tmp_path / "q.json", "[]"), "trase")


def test_answers_about_other_questions_are_said(tmp_path: Path) -> None:
    predictions = read_predictions(write(tmp_path / "p.json", {"77": {"timestamp": [1, 2]}}))
    refs = read_references(write(tmp_path / "r.json", COCO), "moment_retrieval")
    with pytest.raises(EvaluationError, match=r"none of its 1 answers is about one of the 2 references.*\['77'\]; the"):
        match(refs, predictions)


def test_lines_that_are_no_json_are_counted_and_named(tmp_path: Path) -> None:
    good = json.dumps({"qid": 7, "pred_relevant_windows": [[0, 4, 1]]})
    read = read_predictions(write(tmp_path / "p.jsonl", f"{good}\n{{torn\n[1]\n{good}\n"))
    assert [place.partition(" names")[0] for place in read.bad_rows] == ["p.jsonl:2 is not JSON", "p.jsonl: record 2"]
    assert len(read.rows) == 2 and read.repeated == 1


DEEP, LONG = "[" * 5000 + "]" * 5000, "7" * 5000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '[{"id": 0,\n"text": ' + LONG + "}]",
            r"p.json:2: not JSON that can be read: an integer of more than 4300 digits.",
        ),
        ('{"0":\n\n' + DEEP + "\n}", r"p.json:3: not JSON that can be read: nested too deeply. Correct it."),
        ('{"id": 0, "text": ' + DEEP + "}", r"p.json:1: not JSON that can be read: nested too deeply. Correct it."),
    ],
)
def test_a_file_that_python_cannot_read_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        read_predictions(write(tmp_path / "p.json", text))


@pytest.mark.parametrize(
    ("value", "reason"), [(DEEP, "nested too deeply"), (LONG, "an integer of more than 4300 digits")]
)
@pytest.mark.parametrize("at", [1, 2])
def test_a_line_that_python_cannot_read_is_counted_and_named(tmp_path: Path, value: str, reason: str, at: int) -> None:
    lines = ['{"id": 0, "text": "1 - 2"}', '{"id": 1, "text": "3 - 4"}']
    lines.insert(at - 1, '{"id": 9, "text": ' + value + "}")
    read = read_predictions(write(tmp_path / "p.jsonl", "\n".join(lines)))
    assert len(read.rows) == 2
    assert read.bad_rows == [f"p.jsonl:{at} is not JSON that can be read: {reason}"]


def test_a_reference_line_that_python_cannot_read_is_named(tmp_path: Path) -> None:
    line = json.dumps(QVH[0])
    for value, words in ((DEEP, "nested too deeply"), (LONG, "integer 77777777777777777777... is too large")):
        text = f"{line}\n{line.replace('[[0, 4], [6, 8]]', value)}"
        with pytest.raises(EvaluationError, match=rf"r\.jsonl:2: .*{re.escape(words)}.*Correct the row\."):
            read_references(write(tmp_path / "r.jsonl", text), "moment_retrieval")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ROWS = {
    "ours": lambda v: [{"id": "x", "prediction": [{"start_s": v, "end_s": v, "scores": v, "text": v}], "problems": v}],
    "moment_detr": lambda v: [{"qid": 7, "pred_relevant_windows": [[0, 1, 1], v], "pred_saliency_scores": v}],
    "timechat_tvg": lambda v: {"0": {"timestamp": v}},
    "dense_captions": lambda v: {"a": [{"timestamp": [1, 2], "caption": "x"}, v]},
    "trace": lambda v: [{"video": "a", "id": 0, "timestamps": [v], "scores": [v], "captions": [v]}],
    "text": lambda v: [{"id": 0, "text": v}],
    "charades_sta": lambda v: f"a {v!r}##q".replace("\n", " "),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=ANY, format=st.sampled_from(sorted(FORMATS)))
def test_any_value_in_any_place_of_any_format_is_an_answer_and_no_crash(
    tmp_path: Path, value: Any, format: str
) -> None:
    try:
        path = write(tmp_path / "p.json", ROWS[format](value))
    except UnicodeEncodeError:  # half a character in a text file
        return
    read = read_predictions(path, format)
    assert len(read.rows) + len(read.bad_rows) >= 1
    for task in ("moment_retrieval", "moment_map", "multi_segment"):
        (reference, _) = read_references(write(tmp_path / "r.json", COCO), "moment_retrieval")
        for _, told in read.rows:
            made = score_task(TASKS[task], [reference.sample], [told])
            assert all(f is None or 0 <= f <= 100 for f in made.figures().values())
            assert made.counts["questions"] == 1
