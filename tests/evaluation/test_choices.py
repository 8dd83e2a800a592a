from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeexpert.evaluation import MISSING, EvaluationError, choice_accuracy
from timeexpert.evaluation.choices import (
    CONVENTIONS,
    YES_NO_CONVENTIONS,
    Choice,
    read_choice,
    read_yes_no,
    yes_no_accuracy,
)
from timeexpert.evaluation.scores import intervals

OPTIONS = ("red", "dark red", "blue", "green")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("B", 1), ("(b)", 1), ("B. because", 1), ("b)", 1), ("Option B", 1), ("Best Option: (B", 1), 
        ("Caption B: x", 1),
        ("The answer is (C) because", 2), ("Answer: D", 3), ("The correct option is B.", 1), ("I choose (C).", 2),
        ("blue.", 2), ("A. red", 0), ("It is dark red", 1), ("the RED one", 0),
        ("A man walks", None), ("E", None), ("(A) or (B)", None), ("red or blue", None), ("", None), ("none", None),
        ("I think so", None), ("redder", None),
    ],
)  # fmt: skip
def test_a_choice_is_read_from_its_letter_or_its_words(text, place):
    assert read_choice(text, OPTIONS) == place


@pytest.mark.parametrize(
    ("text", "said"),
    [("Yes.", True), ("no, it is not", False), ("I think yes", True), ("Nothing moves", None), ("yes and no", True)],
)
def test_yes_and_no_are_whole_words_and_the_first_word_decides(text, said):
    assert read_yes_no(text) is said
    assert read_yes_no("it is yes or no") is None


def test_what_cannot_be_read_is_wrong_and_counted():
    truth = [Choice(OPTIONS, 1)] * 4
    figures = choice_accuracy(truth, ["B", "none", None, MISSING]).to_json()
    assert (figures["accuracy"], figures["questions"], figures["answered"]) == (25.0, 4, 3)
    assert (figures["parsed"], figures["missing"]) == (1, 1)


def test_groups_have_figures_and_intervals_of_their_own():
    truth = [Choice(OPTIONS, 0)] * 20
    groups = {"Duration": ["short"] * 10 + ["very long"] * 10}
    scores = choice_accuracy(truth, ["A"] * 10 + ["B"] * 5 + ["A"] * 5, groups=groups)
    figures = scores.figures()
    assert figures == {"accuracy": 75.0, "accuracy_duration_short": 100.0, "accuracy_duration_very_long": 50.0}
    low, high = intervals(scores)["accuracy_duration_very_long"]
    assert low < 50 < high
    with pytest.raises(EvaluationError, match="groups 'Duration' names 1 questions of 20"):
        choice_accuracy(truth, ["A"] * 20, groups={"Duration": ["short"]})


def test_a_choice_that_cannot_be_answered_is_refused():
    with pytest.raises(EvaluationError, match=r"a choice of 4 options with the right one at 4: there must be 2 to 26"):
        Choice(OPTIONS, 4)


def test_videomme_takes_the_first_capital_of_four():
    truth = [Choice(OPTIONS, 0)]
    assert choice_accuracy(truth, ["A man walks"], convention="videomme").figures()["accuracy"] == 100.0
    assert choice_accuracy(truth, ["A man walks"]).figures()["accuracy"] == 0.0


def test_tempcompass_rules_equal_lmms_eval(shared: Path):
    document = json.loads((shared / "oracles" / "lmms_eval_tasks" / "tasks.json").read_text("utf-8"))
    (case,) = [case for case in document["cases"] if case["inputs"]["task"] == "tempcompass"]
    rated = list(zip(case["inputs"]["rows"], case["expected"]["tempcompass"]["ratings"], strict=True))
    choices = [(row, rating) for row, rating in rated if row["type"] == "multi-choice"]
    options = [[line.split(". ", 1)[1] for line in row["question"].split("\n")[1:]] for row, _ in choices]
    truth = [Choice(tuple(o), ord(row["answer"][0]) - ord("A")) for o, (row, _) in zip(options, choices, strict=True)]
    scores = choice_accuracy(truth, [row["prediction"] for row, _ in choices], convention="tempcompass")
    assert scores.per_item["right"].tolist() == [rating for _, rating in choices]
    asked = [(row, rating) for row, rating in rated if row["type"] == "yes_no"]
    yes_no = yes_no_accuracy(
        [row["answer"] == "yes" for row, _ in asked], [row["prediction"] for row, _ in asked], convention="tempcompass"
    )
    assert yes_no.per_item["right"].tolist() == [rating for _, rating in asked]


@given(st.text(max_size=30) | st.text("ABab().: redorblu", max_size=20), st.sampled_from(sorted(CONVENTIONS)))
def test_no_text_breaks_a_choice(text, convention):
    figures = choice_accuracy([Choice(OPTIONS, 1)], [text], convention=convention).to_json()
    assert figures["accuracy"] in (0.0, 100.0) and figures["questions"] == 1
    for name in YES_NO_CONVENTIONS:
        assert yes_no_accuracy([True], [text], convention=name).figures()["accuracy"] in (0.0, 100.0)
