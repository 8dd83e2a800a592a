"""TimeIT (Ren et al., TimeChat, CVPR 2024): ``{video, QA: [{q, a}], source}`` with times written into the answers.

VTG-IT (Guo et al., VTG-LLM, AAAI 2025) too, whose files may spell numbers in tokens (``<TIME_ONE><TIME_DOT>``).
Answers are read strictly, as they are constructed, and whole: what is left over makes a rejection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from timeexpert.data.formats.base import (
    Draft,
    Drafts,
    Fault,
    Format,
    RawEvent,
    RowError,
    fields_of,
    list_of,
    quoted,
    text_of,
)
from timeexpert.data.formats.reading import Row, records

_NUMBER = r"\d+(?:\.\d+)?"
_SPAN = rf"({_NUMBER})(?: - ({_NUMBER}))?"
_LIST = rf"{_NUMBER}(?:, {_NUMBER})*"
_GROUNDING = re.compile(rf"The given query happens in {_SPAN} seconds\.", re.ASCII)
_HIGHLIGHTS = re.compile(
    rf"(?:There are (\d+) highlight moments|The highlight timestamps are) in the ({_LIST}) seconds?\. "
    rf"Their saliency scores are ({_LIST})\.",
    re.ASCII,
)
_SCORED_START = re.compile(
    rf"(?:\A|(?<=\.)\s+)({_NUMBER}) seconds?, significance score: ({_NUMBER}), ", re.ASCII | re.IGNORECASE
)
_DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
_TOKENS = {f"<TIME_{word}>": str(digit) for digit, word in enumerate(_DIGITS)} | {"<TIME_DOT>": "."}
_TOKEN = re.compile("|".join(_TOKENS))
_EVENT_START = re.compile(rf"(?:\A|(?<=\.)\s+){_SPAN} seconds, ", re.ASCII)
_SPEECH = "Transcribed speech: "


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "video", "QA")
    for i, turn in enumerate(list_of(value["QA"], "QA")):
        try:
            yield _turn_draft(value, turn, f"{row.key}:{i}", f".QA[{i}]")
        except RowError as error:
            yield Fault(f".QA[{i}]", error)


def _turn_draft(value: dict[str, Any], turn: Any, key: str, at: str) -> Draft:
    turn = fields_of(turn, "q", "a")
    question, answer = (_TOKEN.sub(lambda match: _TOKENS[match[0]], text_of(turn[name], name)) for name in ("q", "a"))
    task, events = parse_answer(answer, quoted(question))
    if task == "dense_captioning" and len(events) == 1 and _says(question, events[0].text):
        task = "moment_retrieval"  # VTG-IT: the answer repeats the query behind its time
    return Draft(
        key=key,
        video=value["video"],
        task=task,
        prompt=question,
        duration_s=value.get("duration"),
        events=events,
        at=at,
        meta={"origin": value["source"]} if value.get("source") else {},
    )


def parse_answer(answer: str, query: str) -> tuple[str, list[RawEvent]]:
    """Task and events of an answer; ``query`` is the text of the events that only have times.

    Raises :class:`RowError` on an answer that is not written in one of TimeIT's ways.
    """
    if match := _GROUNDING.fullmatch(answer):
        return "moment_retrieval", [RawEvent(_times(match), (), query)]
    if match := _HIGHLIGHTS.fullmatch(answer):
        times, scores = ([float(n) for n in match[group].split(", ")] for group in (2, 3))
        if len(times) != len(scores) or (match[1] and int(match[1]) != len(times)):
            said = f"{match[1]} moments, " if match[1] else ""
            raise RowError("unparsed", f"the answer has {said}{len(times)} times and {len(scores)} scores.")
        return "highlight_detection", [RawEvent([t], [s], query) for t, s in zip(times, scores, strict=True)]
    if scored := list(_SCORED_START.finditer(answer)):
        return "highlight_detection", [
            RawEvent([float(match[1])], [float(match[2])], text) for match, text in _divided(answer, scored)
        ]
    text = answer.removeprefix(_SPEECH)
    if text == "None.":
        raise RowError("no_label", "the answer is 'None.': there is no speech to give times to.")
    starts = list(_EVENT_START.finditer(text))
    if not starts or starts[0].start() != 0:
        raise RowError(
            "unparsed",
            f"the answer must be 'start - end seconds, caption.' and so on, or one of the other ways in which TimeIT "
            f"writes times, not {answer[:80]!r}.",
        )
    return "dense_captioning", [RawEvent(_times(match), (), caption) for match, caption in _divided(text, starts)]


def _divided(text: str, starts: list[re.Match[str]]) -> Iterator[tuple[re.Match[str], str]]:
    """Each beginning of an event in ``text`` with the caption behind it. Raises :class:`RowError`."""
    if starts[0].start():
        raise RowError(
            "unparsed", f"the answer begins with {text[: starts[0].start()][:80]!r}, before its first event."
        )
    for match, stop in zip(starts, [*(m.start() for m in starts[1:]), len(text)], strict=True):
        yield match, text_of(text[match.end() : stop].strip().removesuffix("."), "caption")


def _says(question: str, caption: str) -> bool:
    """Whether the words of ``caption`` stand in ``question``, as its query."""
    return caption.strip().rstrip(".").lower() in question.lower()


def _times(match: re.Match[str]) -> list[float]:
    return [float(n) for n in match.groups()[:2] if n is not None]


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and {"video", "QA"} <= set(first)


FORMAT = Format(
    "timeit",
    "TimeIT (TimeChat): {video, QA: [{q, a}], source}; times are read from the answers, strictly",
    records,
    _matches,
    _drafts,
)
