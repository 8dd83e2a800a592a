"""Answers in words: what is written is what is read."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from timeexpert.evaluation.answer_events import events_of_text
from timeexpert.evaluation.answer_text import read_events, read_highlights
from timeexpert.tokenization import Event
from timeexpert.tokenization.answer_lines import AnswerError, answer_lines

STEPS = (Event(7.2, 8.6, text="Place the cleaner into the jig."), Event(8.64, 10.4, text="write 3\ndigits"))


def test_each_task_has_its_form() -> None:
    lines = "7.2 - 8.6 seconds, Place the cleaner into the jig.\n8.6 - 10.4 seconds, write 3 digits."
    assert answer_lines("action_segmentation", STEPS) == answer_lines("dense_captioning", STEPS) == lines
    assert answer_lines("moment_retrieval", STEPS[:1]) == "The given query happens in 7.2 - 8.6 seconds."
    assert (
        answer_lines("moment_retrieval", STEPS)
        == "The given query happens in 7.2 - 8.6 seconds and 8.6 - 10.4 seconds."
    )
    points = [Event(82, 82, (1.3,)), Event(84, 84, (1.75,))]
    said = "There are 2 highlight moments in the 82.0, 84.0 second. Their saliency scores are 1.3, 1.8."
    assert answer_lines("highlight_detection", points) == said
    assert answer_lines("general", [Event(text="a red\ncircle")]) == "a red circle"


@pytest.mark.parametrize(
    ("task", "events", "words"),
    [
        ("action_segmentation", [], "task action_segmentation: there are no events to write"),
        ("dense_captioning", [Event(text="x")], r"events\[0\] \('x'\) has no time; its answer needs start and end"),
        ("dense_captioning", [Event(1, 2, text=" . ")], r"events\[0\] \(1.0 to 2.0 s\) has no text"),
        ("highlight_detection", [Event(1, 1)], r"events\[0\] needs a time and a score"),
        ("referring_segmentation", [Event(1, 2)], "'referring_segmentation' has no answer in words; there are general"),
    ],
)
def test_what_has_no_form_is_refused(task: str, events: list[Event], words: str) -> None:
    with pytest.raises(AnswerError, match=words):
        answer_lines(task, events)


tenths = st.integers(0, 99_999).map(lambda n: n / 10)
spans = st.tuples(tenths, tenths).map(lambda pair: (min(pair), max(pair)))
# Any words on one line that do not themselves say where an event begins.
words = (
    st.text(st.characters(codec="ascii", categories=("L", "N", "P", "Zs")), min_size=1, max_size=40)
    .map(lambda text: " ".join(text.split()).rstrip(". "))
    .filter(lambda text: text and "second" not in text and "s," not in text and not re.search(r"[.;!?]\s*\d", text))
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(spans, words), min_size=1, max_size=12))
@example([((1.0, 2.0), "cook for 2 to 3 minutes"), ((2.0, 9.0), "wait 5 - 10")])
@example([((0.0, 0.0), "1:00 - 2:00, [3, 4]")])
def test_lines_are_read_as_they_were_written(made: list[tuple[tuple[float, float], str]]) -> None:
    text = answer_lines("action_segmentation", [Event(*span, text=said) for span, said in made])
    assert read_events(text) == [(*span, said) for span, said in made]
    assert [(e.start_s, e.end_s, e.text) for e in events_of_text(text)[0]] == read_events(text)


@settings(max_examples=100, deadline=None)
@given(st.lists(spans, min_size=1, max_size=8))
def test_windows_are_read_as_they_were_written(made: list[tuple[float, float]]) -> None:
    text = answer_lines("moment_retrieval", [Event(*span, text="q") for span in made])
    assert events_of_text(text, "moment_retrieval")[0].segments_s == made


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(tenths, st.integers(0, 50).map(lambda n: n / 10)), min_size=1, max_size=20))
def test_highlights_are_read_as_they_were_written(made: list[tuple[float, float]]) -> None:
    text = answer_lines("highlight_detection", [Event(t, t, (s,)) for t, s in made])
    assert read_highlights(text) == made
    assert [(e.start_s, *e.scores) for e in events_of_text(text, "highlight_detection")[0]] == made


def test_an_answer_on_one_line_is_still_read_by_its_spans() -> None:
    text = "1.0 - 2.0 seconds, cut it. 3.0 - 4.0 seconds, fry it."
    assert read_events(text) == [(1, 2, "cut it."), (3, 4, "fry it.")]


def test_what_cannot_be_read_is_named() -> None:
    said = "5.0 - 3.0 seconds, cut it.\n6.0 - 7.0 seconds, fry it."
    events, problems = events_of_text(said, "action_segmentation")
    assert [e.text for e in events] == ["fry it"]
    assert problems == ["5 - 3 seconds: start_s (5.0) must not be after end_s (3.0)."]
    assert events_of_text("no idea", "dense_captioning") == (type(events)(), ["no times were read from the text"])
    assert events_of_text("3 of them", "highlight_detection")[1] == ["no times with scores were read from the text"]
    assert read_highlights("There are 3 highlight moments in the 1.0, 2.0 second. Their saliency scores are 1, 2.") is None
    assert [e.text for e in events_of_text("a red circle")[0]] == ["a red circle"]
    assert events_of_text("  ", "general")[1] == ["the answer is empty"]
