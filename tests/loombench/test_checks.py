"""A time leaks into no When or Combined question, and Where has its own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.loombench.checks import leaked_time, read_answer
from timeexpert.loombench.prompts import EXAMPLE, EXAMPLE_SHOT, conversation

GOOD = {
    "when": "When does the man in red cut two onions?",
    "where": "Where is the man in red from 3.5 to 12.0 seconds?",
    "combined": "When does the man in red cut two onions and push them into a pan, and where is he then?",
}
ALL = ("when", "where", "combined")


def told(**changes: object) -> tuple[dict[str, str], dict[str, str]]:
    """The good kinds, and the refused ones with their rule."""
    good, refused = read_answer(json.dumps({**GOOD, **changes}), ALL, 3.5, 12.0)
    return good, {kind: why.kind for kind, why in refused.items()}


def test_questions_that_follow_the_rules_are_taken() -> None:
    assert told() == (GOOD, {})
    fenced = read_answer(f"```json\n{json.dumps(GOOD, indent=1)}\n```", ALL, 3.5, 12.0)
    assert fenced == (GOOD, {})
    assert told(when="When does he\n cut  onions?")[0]["when"] == "When does he cut onions?"


@pytest.mark.parametrize(
    "question",
    [
        "When, in the first 5 seconds, does he cut onions?",
        "When does he cut onions for eight seconds?",
        "When does he cut onions at 0:03?",
        "When does he cut onions, around the 4th second?",
        "When does he cut onions, near frame 12?",
        "When does he cut onions, from 3 to 12?",
        "When does he cut onions, between 3 and 12 in the video?",
        "When does he cut onions after t=3.5?",
        "When does he cut onions, beginning with 3.5?",
        "When does he cut onions at 3?",
        "When does he cut onions for a few minutes?",
        "When does he cut onions at second 3?",
        "When does he cut onions, from the third second on?",
        "When does he cut onions, after half a minute?",
        "When does he cut onions, a quarter of an hour in?",
        "When does he cut onions at 1m5s?",
        "When does he cut onions, at the 75% mark?",
        "When does he cut onions, 20 per cent of the way in?",
        "When does he cut onions, beginning with frame no 12?",
    ],
)
@pytest.mark.parametrize("kind", ["when", "combined"])
def test_a_time_in_when_or_combined_is_found(question: str, kind: str) -> None:
    good, refused = told(**{kind: question.replace("?", ", and where is he?")})
    assert refused == {kind: "leaks a time"} and kind not in good


@pytest.mark.parametrize(
    "said",
    [
        "at 31 in the video",
        "in 31-42",
        "[31, 42]",
        "(31,42)",
        "between 31 & 42",
        "after 31",
        "before 43",
        "around the 31 mark",
        "in the 31 to 42 range",
        "31 until 42",
        "12 - 15",
        "12\u201315",
        "between thirty one and forty two",
        "between five and nine",
        "at thirty-one",
        "for seventy seconds",
        "after the thirty-first second",
        "after roughly 31",
        "starting approximately 31",
        "~31",
        "@ 42",
        "starting 31",
        "(ends 42)",
        "in the interval 31/42",
        "from thirty-one up to forty-two",
        "from thirty-one onwards",
        "at second thirty-one",
        "at frame thirty",
        "one third into the clip",
        "halfway through the video",
    ],
)
def test_a_time_without_a_unit_is_found(said: str) -> None:
    assert leaked_time(f"When does he cut onions, {said}?", 31.0, 42.5) is not None
    assert leaked_time(f"When, {said}, does he cut onions?", 31.0, 42.5) is not None


@pytest.mark.parametrize(
    "question",
    [
        "When do 2 to 3 people cut 2 onions in 3 bowls?",
        "When does he cut onions one by one, from one to the other, and in two?",
        "When does she hold 2 knives in one hand after 3 tries?",
        "When do between two and three people run around 2 tables?",
        "When does he write 7 and 8 on the board?",
        "When does he turn halfway through his jump?",
        "When does number 2, in 3-inch heels, jump?",
        "When does she lift the bar at 2.4 kg in 2.5 tries?",
    ],
)
def test_counts_and_phrases_that_equal_the_shots_own_times_are_left_alone(question: str) -> None:
    assert leaked_time(question, 1.6, 2.3) is None


@pytest.mark.parametrize(
    "question",
    [
        "When does he cut 2 onions into 12 rings?",
        "When does he take a second look at the first pan?",
        "When does he wait for one moment with both hands on the 3 lids?",
        "In which part of the video does number 7 shoot from the 3-point line?",
        "When does she hang 2 picture frames next to 4 lamps?",
        "When do the two of them walk from table 3 to the door?",
        "When does he wear the shirt with 10 on it?",
        "When does he cut 1/2 of the bread?",
        "When does he fill the second glass to 75% with the third bottle?",
        "When does he cut the third of roughly 12 onions in half?",
    ],
)
def test_numbers_that_are_no_times_are_left_alone(question: str) -> None:
    assert leaked_time(question, 3.5, 12.0) is None


@pytest.mark.parametrize(
    ("kind", "question", "rule"),
    [
        ("when", "Does he cut onions?", "does not ask when"),
        ("combined", "When does he cut onions?", "does not ask where"),
        ("combined", "Where does he cut onions?", "does not ask when"),
        ("where", "Where is the man in red?", "lacks its time range"),
        ("where", "Where is the man in red from 3.5 seconds on?", "lacks its time range"),
        ("where", "Where is the man in red from 4 to 12 seconds?", "lacks its time range"),
        ("where", "What does the man in red do from 3.5 to 12.0 seconds?", "does not ask where"),
        ("when", "", "not the form asked for"),
        ("when", 7, "not the form asked for"),
        ("when", None, "not the form asked for"),
        ("when", "When does he cut? " * 50, "too long"),
    ],
)
def test_a_question_that_breaks_a_rule_is_refused_by_the_rules_name(kind: str, question: object, rule: str) -> None:
    good, refused = told(**{kind: question})
    assert refused == {kind: rule} and set(good) == set(ALL) - {kind}


@settings(deadline=None)
@given(
    st.text()
    | st.recursive(st.none() | st.floats() | st.text(), lambda a: st.lists(a) | st.dictionaries(st.text(), a)).map(str)
)
def test_any_other_answer_is_refused_whole(text: str) -> None:
    good, refused = read_answer(text, ALL, 3.5, 12.0)
    assert good == {} and set(refused) == set(ALL)


def test_the_example_in_context_follows_the_rules() -> None:
    start_s, end_s, description = EXAMPLE_SHOT
    assert read_answer(json.dumps(EXAMPLE), ALL, start_s, end_s) == (EXAMPLE, {})
    chat = conversation(("where",), 3.5, 12.0, "He cuts.")
    assert '"when"' not in chat[0]["content"] and json.loads(chat[2]["content"]) == {"where": EXAMPLE["where"]}
    assert json.loads(chat[-1]["content"]) == {"from_s": "3.5", "to_s": "12.0", "description": "He cuts."}
