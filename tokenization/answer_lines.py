"""Answers as text, for models that write words instead of number tokens; evaluation/answer_text.py reads them back.

Seconds have one decimal, as in TimeIT and IndustryASM. The forms, and where they come from:

- dense captioning, action segmentation: a line per event, ``7.2 - 8.6 seconds, place the part.`` (TemporalVLM, figure 8;
  TimeChat's ``utils/construct_it_data`` writes the same behind one another);
- moment retrieval: ``The given query happens in 20.7 - 32.0 seconds.`` (TimeIT), several windows joined by ``and``, which
  TimeIT does not have;
- highlight detection: ``There are 2 highlight moments in the 82.0, 84.0 second. Their saliency scores are 1.3, 1.7.``
  (TimeIT);
- general: the text of the answer.

Texts are written on one line, with a single full stop. A point in time is written as ``8.5 - 8.5 seconds``.
"""

from __future__ import annotations

from collections.abc import Iterable

from timeexpert.errors import UserError

from .events import Event

LINE_TASKS = ("dense_captioning", "action_segmentation")


class AnswerError(UserError):
    """Events that cannot be written as the answer of a task."""


def answer_lines(task: str, events: Iterable[Event]) -> str:
    """The text that a model of words learns to write for ``events``, the answer to a question of ``task``.

    Raises :class:`AnswerError` for a task without such a form, and for an event that lacks the times, the score or the
    text that its form needs.
    """
    events = list(events)
    if not events:
        raise AnswerError(f"task {task}: there are no events to write; an answer has one or more.")
    if task in LINE_TASKS:
        return "\n".join(f"{_span(task, i, event)}, {_words(task, i, event)}." for i, event in enumerate(events))
    if task == "moment_retrieval":
        spans = " and ".join(_span(task, i, event) for i, event in enumerate(events))
        return f"The given query happens in {spans}."
    if task == "highlight_detection":
        for i, event in enumerate(events):
            if event.start_s is None or not event.scores:
                raise AnswerError(f"task {task}: events[{i}] needs a time and a score; it has {event.to_json()}.")
        times, scores = (", ".join(f"{v:.1f}" for v in values) for values in zip(*map(_point, events), strict=True))
        return f"There are {len(events)} highlight moments in the {times} second. Their saliency scores are {scores}."
    if task == "general":
        return " ".join(" ".join(event.text.split()) for event in events)
    known = ", ".join(("general", *LINE_TASKS, "moment_retrieval", "highlight_detection"))
    raise AnswerError(f"task {task!r} has no answer in words; there are {known}.")


def _span(task: str, i: int, event: Event) -> str:
    if event.start_s is None or event.end_s is None:
        raise AnswerError(f"task {task}: events[{i}] ({event.text!r:.60}) has no time; its answer needs start and end.")
    return f"{event.start_s:.1f} - {event.end_s:.1f} seconds"


def _words(task: str, i: int, event: Event) -> str:
    words = " ".join(event.text.split()).removesuffix(".")
    if not words:
        raise AnswerError(f"task {task}: events[{i}] ({event.start_s} to {event.end_s} s) has no text to write.")
    return words


def _point(event: Event) -> tuple[float, float]:
    assert event.start_s is not None
    return event.start_s, event.scores[0]
