"""Events of an answer in words: what :func:`timeexpert.tokenization.answer_lines.answer_lines` wrote, read back."""

from __future__ import annotations

from timeexpert.tokenization import Event, EventError, EventSequence

from .answer_text import read_events, read_highlights


def events_of_text(text: str, task: str | None = None) -> tuple[EventSequence, list[str]]:
    """The events of an answer to a question of ``task``, and what of it could not be read, in words.

    Without a task the text decides: highlights, then anything with spans of time, else words without a time. A span that
    ends before it starts is no event: it is named, and the others stay. Never raises.
    """
    if task == "general" or not text.strip():
        problems = [] if text.strip() else ["the answer is empty"]
        return EventSequence((Event(text=text.strip()),) if text.strip() else ()), problems
    if task in (None, "highlight_detection"):
        points = read_highlights(text)
        if points is not None:
            return EventSequence(tuple(Event(time_s, time_s, (score,)) for time_s, score in points)), []
        if task is not None:
            return EventSequence(), ["no times with scores were read from the text"]
    spans = read_events(text)
    if spans is None:
        if task is None:
            return EventSequence((Event(text=text.strip()),)), []
        return EventSequence(), ["no times were read from the text"]
    events, problems = [], []
    for start_s, end_s, words in spans:
        try:
            events.append(Event(start_s, end_s, text="" if task == "moment_retrieval" else words))
        except EventError as error:
            problems.append(f"{start_s:g} - {end_s:g} seconds: {error}")
    return EventSequence(tuple(events)), problems
