"""Samples as MUSEG's lines: what happens under one phrase in a video becomes one question with all its segments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from timeexpert.data.records import SEGMENT_TASKS, Sample

from .base import Converted, Rejected

PROBLEM = "Find every part of the video that shows the following, and give the start and end of each: '{phrase}'."


@dataclass
class _Question:
    phrase: str
    video: str
    duration_s: float | None
    segments_s: list[tuple[float, float]] = field(default_factory=list)
    lacks: str | None = None  # id of a sample whose event of this phrase has no length

    def row(self, idx: int) -> dict[str, Any]:
        """As a line of MUSEG's."""
        solution = _merged(self.segments_s)
        row = {
            "idx": idx,
            "problem": PROBLEM.format(phrase=self.phrase),
            "solution": [list(segment) for segment in solution],
            "video": self.video,
            "task": "tal" if len(solution) > 1 else "tvg",
        }
        return row if self.duration_s is None else {**row, "duration": self.duration_s}


def to_museg(items: Iterable[Converted]) -> Iterator[dict[str, Any] | Rejected]:
    """MUSEG lines ``{idx, problem, solution, video, task, duration}``, after all ``items`` are read; rejections pass.

    Events of one video whose texts differ only in case, white space and a last full stop are one question;
    segments that touch or overlap are one. ``task`` is ``tvg`` with one segment and ``tal`` with several.
    An event without text, or without length, is rejected with its sample's id, and so is the question that an event
    without length belongs to: its solution would lack a segment.
    """
    questions: dict[tuple[str, str], _Question] = {}
    for item in items:
        if isinstance(item, Rejected):
            yield item
        elif item.task not in SEGMENT_TASKS:
            yield Rejected(item.id, "unsupported", f"task ({item.task!r}) has no segments", item.to_json())
        else:
            yield from _add(item, questions)
    idx = 0
    for question in questions.values():
        if question.lacks is None:
            yield question.row(idx)
            idx += 1
        elif question.segments_s:
            reason = f"{question.phrase!r} in {question.video} happens once more, in an event without length"
            yield Rejected(question.lacks, "incomplete", reason, question.row(idx))


def _add(sample: Sample, questions: dict[tuple[str, str], _Question]) -> Iterator[Rejected]:
    for i, event in enumerate(sample.events):
        phrase = re.sub(r"\s+", " ", event.text).strip().removesuffix(".").strip()
        question = _Question(phrase, sample.video, sample.duration_s)
        if phrase:
            question = questions.setdefault((sample.video, phrase.casefold()), question)
        if event.start_s is None or event.end_s is None or event.start_s >= event.end_s:
            question.lacks = sample.id
            reason = f"events[{i}] ({event.start_s} to {event.end_s}) must end after it starts"
            yield Rejected(sample.id, "zero_length", reason, sample.to_json())
        elif not phrase:
            yield Rejected(sample.id, "no_phrase", f"events[{i}] has no text to ask for", sample.to_json())
        else:
            question.segments_s.append((event.start_s, event.end_s))


def _merged(segments_s: list[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start_s, end_s in sorted(segments_s):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end_s)
        else:
            merged.append((start_s, end_s))
    return merged
