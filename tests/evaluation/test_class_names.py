from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeexpert.evaluation import EvaluationError
from timeexpert.evaluation.class_names import UNMATCHED, ClassNames, read_class_names, read_synonyms
from timeexpert.evaluation.frame_labels import FrameLabels

NAMES = ["cut_tomato", "peel_cucumber", "add_oil", "add_salt", "background"]


def test_each_step_is_named_in_the_report():
    classes = ClassNames(NAMES, synonyms={"slice the tomato": "cut_tomato"})
    texts = ["cut_tomato", "Cut Tomato.", "SLICE THE TOMATO", "peel the cucumber", "dance", "dance"]
    assert [classes.match(t) for t in texts] == ["cut_tomato"] * 3 + ["peel_cucumber", UNMATCHED, UNMATCHED]
    report = classes.report()
    assert [report[step] for step in ("exact", "normalised", "synonym", "nearest", "unmatched")] == [1, 1, 1, 1, 2]
    assert report["unmatched_rate"] == pytest.approx(100 / 3)
    assert report["unmatched_texts"] == [["dance", 2]]
    assert report["nearest_texts"] == [["peel the cucumber", "peel_cucumber", 1]]


def test_nearest_needs_the_threshold_and_one_winner():
    assert ClassNames(NAMES).match("add") == UNMATCHED  # 1/2 for add_oil and for add_salt
    assert ClassNames(NAMES).match("the cucumber is being peeled") == UNMATCHED  # 1/6
    assert ClassNames(NAMES, threshold=0.15).match("the cucumber is being peeled") == "peel_cucumber"


def test_synonyms_of_one_class_do_not_add_up():
    classes = ClassNames(["cut", "fry"], synonyms={"slice it up now": "cut", "chop all of these": "cut"})
    assert classes.match("slice it chop all") == UNMATCHED  # 2/6 with either wording, not 4/4


def test_labels_are_renamed_run_by_run():
    labels = FrameLabels.from_runs([("background", 1), ("Cut tomato", 3), ("cut_tomato", 2), ("???", 4)])
    classes = ClassNames(NAMES)
    renamed = FrameLabels.from_runs([("background", 1), ("cut_tomato", 5), (UNMATCHED, 4)])
    assert classes.relabel(labels) == renamed
    assert classes.report()["texts"] == 3  # silence is no text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"names": []}, "names is empty"),
        ({"names": ["a b", "A_B"]}, "'a b' and 'A_B' have the same words"),
        ({"names": ["a"], "synonyms": {"x": "z"}}, "'x' points to 'z', which is no class"),
        ({"names": ["a", "b"], "synonyms": {"B!": "a"}}, "'B!' of 'a' stands for another class"),
        ({"names": ["a"], "threshold": 0}, r"threshold \(0\) must lie above 0"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_refused(arguments, words):
    with pytest.raises(EvaluationError, match=words):
        ClassNames(**arguments)


def test_files_of_classes_and_synonyms(tmp_path: Path):
    mapping, plain, synonyms = (tmp_path / name for name in ("mapping.txt", "classes.txt", "synonyms.json"))
    mapping.write_text("0 cut_tomato\n1 add_oil\n")
    plain.write_text("cut tomato\nadd oil\n")
    synonyms.write_text(json.dumps({"add_oil": ["pour oil", "drizzle"]}))
    assert read_class_names(mapping) == ["cut_tomato", "add_oil"]
    assert read_class_names(plain) == ["cut tomato", "add oil"]
    assert read_synonyms(synonyms) == {"pour oil": "add_oil", "drizzle": "add_oil"}
    synonyms.write_text('{"a": ["x"], "b": ["x"]}')
    with pytest.raises(EvaluationError, match="'x' stands twice"):
        read_synonyms(synonyms)
    synonyms.write_text("[1]")
    with pytest.raises(EvaluationError, match="must hold an object of lists"):
        read_synonyms(synonyms)


@given(st.lists(st.text() | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")), max_size=20))
def test_any_text_gets_a_class_or_is_counted(texts):
    classes = ClassNames(NAMES)
    matched = [classes.match(text) for text in texts]
    report = classes.report()
    assert set(matched) <= {*NAMES, UNMATCHED}
    assert report["unmatched"] == matched.count(UNMATCHED) and report["texts"] == len(texts)
