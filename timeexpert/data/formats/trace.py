"""TRACE's training JSON (VTG-IT included): answers as ``<sync><time>..<score>..text`` with numbers beside them.

Per event the answer has 7 ``<time>`` per number or 1 for none, and 4 ``<score>`` per number or 1 for none; the
numbers stand in ``times`` and ``scores``, a list per event, in order over all turns.
"""

from __future__ import annotations

import re
from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Format, RawEvent, RowError, fields_of, list_of
from timeexpert.data.formats.conversations import turns, video_of
from timeexpert.data.formats.reading import Row, records

TIME_TOKENS, SCORE_TOKENS = 7, 4
_EVENT = re.compile(r"((?:<time>)+)((?:<score>)+)(.*)", re.DOTALL)
_PLACEHOLDER = re.compile(r"<(?:sync|time|score)>")


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "conversations", "times", "scores")
    video, pairs = video_of(value), turns(value["conversations"])
    times, scores = list_of(value["times"], "times"), list_of(value["scores"], "scores")
    answers = [_split(answer, i) for i, (_, answer) in enumerate(pairs)]
    count = sum(len(answer) for answer in answers)
    if not count == len(times) == len(scores):
        raise RowError(
            "malformed", f"the answers have {count} events, but {len(times)} times and {len(scores)} scores are given."
        )
    begin = 0
    for i, (question, _) in enumerate(pairs):
        stop = begin + len(answers[i])
        events = [
            _event(part, t, s, begin + j)
            for j, (part, t, s) in enumerate(zip(answers[i], times[begin:stop], scores[begin:stop], strict=True))
        ]
        begin = stop
        task = task_of(question, events)
        meta = {"turn": i, "turns": len(pairs)}
        yield Draft(
            key=f"{row.key}:{i}", video=video, task=task, prompt=question, duration_s=value.get("duration"),
            events=events, at=f".conversations[{2 * i}]", meta=meta,
        )  # fmt: skip


def _split(answer: str, turn: int) -> list[str]:
    head, *parts = answer.split("<sync>")
    if head.strip() or not parts:
        raise RowError("malformed", f"conversations[{2 * turn + 1}] must begin with <sync>: {answer[:60]!r}.")
    if not parts[-1].strip() and len(parts) > 1:
        parts.pop()
    return parts


def _event(part: str, times: Any, scores: Any, i: int) -> RawEvent:
    times, scores = list_of(times, f"times[{i}]"), list_of(scores, f"scores[{i}]")
    match = _EVENT.fullmatch(part)
    if not match or _PLACEHOLDER.search(match[3]):
        raise RowError("malformed", f"event {i} must be <time>.. <score>.. text, not {part[:60]!r}.")
    for name, tokens, numbers, per_number in (
        ("time", match[1].count("<"), times, TIME_TOKENS),
        ("score", match[2].count("<"), scores, SCORE_TOKENS),
    ):
        due = per_number * len(numbers) or 1
        if tokens != due:
            raise RowError("malformed", f"event {i} has {tokens} <{name}> for {len(numbers)} numbers; {due} are due.")
    return RawEvent(times, scores, match[3])


def task_of(question: str, events: list[RawEvent]) -> str:
    """The task, which the format does not name: by scores, by times, and by whether the answer repeats the question.

    An answer whose only text is (part of) the question, or none, points at moments; any other describes them.
    """
    if any(event.scores for event in events):
        return "highlight_detection"
    if not any(event.times for event in events):
        return "general"
    texts = {event.text.strip().rstrip(".").lower() for event in events}
    return "moment_retrieval" if len(texts) == 1 and texts.pop() in question.lower() else "dense_captioning"


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and {"conversations", "times", "scores"} <= set(first)


FORMAT = Format(
    "trace",
    "TRACE and VTG-IT training JSON: <sync><time><score> answers with times and scores beside them",
    records,
    _matches,
    _drafts,
)
