"""What is odd about a clip, in words; and which kinds of oddity leave a clip out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from timeexpert.data.records import is_past_end
from timeexpert.errors import UserError

from .check import Facts
from .sources import Question
from .stretches import Stretch

UNUSABLE = {
    "missing": "no such file in the media folder, or a link out of it",
    "unreadable": "cannot be opened, or no frame decodes",
    "timeout": "took longer than --timeout-s",
    "crash": "ended the process that decoded it",
}
NOTED = {
    "all_black": "black from start to end",
    "black": "black stretches",
    "still": "one picture from start to end",
    "slideshow": "pictures that stand still and change suddenly",
    "frozen": "stretches in which the picture stands still",
    "cut_short": "the end of the file is missing",
    "damaged": "frames inside that do not decode, or only in part",
    "gap": "a single frame stays on screen far longer than usual",
    "variable_rate": "frames at uneven distances",
    "late_start": "the first frame's time stamp is not 0",
    "rotated": "stored turned, shown upright",
    "odd_pixels": "pixels that are not square",
    "duration_differs": "the samples' duration_s is not the file's",
    "past_end": "questions with times past the last readable frame",
}
KINDS = {**UNUSABLE, **NOTED}
DEFAULT_EXCLUDE = ("all_black",)

REST_SHARE, REST_S = 0.05, 1.0  # "from start to end" leaves room for a fade or an odd frame, not for an event
SLIDES, SLIDES_SHARE = 3, 0.8
LATE_START_S = 0.1  # less is an encoder's delay
DURATION_DIFFERS_S = 1.0  # as in data build
LISTED = 3  # stretches and questions named in a sentence


@dataclass(frozen=True)
class Finding:
    """One oddity: a kind of :data:`KINDS` and a sentence."""

    kind: str
    text: str


@dataclass
class CheckedClip:
    """A line of ``clips.jsonl``: the file as it was (``stamp``), ``facts`` or why there are none (``failed`` is a kind
    of :data:`UNUSABLE`, ``reason`` a sentence), and what was made of it. A line that is not ``listed`` is of an earlier
    run: its clip is no longer named, and may be again."""

    video: str
    stamp: dict[str, Any] | None
    failed: str | None = None
    reason: str = ""
    facts: Facts | None = None
    findings: list[Finding] = field(default_factory=list)
    excluded: str = ""  # why; empty for a clip that is used
    listed: bool = True

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields of this class."""
        findings = [{"kind": f.kind, "text": f.text} for f in self.findings]
        facts = self.facts.to_json() if self.facts is not None else None
        return {**vars(self), "facts": facts, "findings": findings}

    @classmethod
    def from_json(cls, row: Any) -> CheckedClip:
        """The measured part of :meth:`to_json`. Raises ``ValueError``, ``TypeError``, ``KeyError``."""
        failed, reason, facts = row["failed"], row["reason"], row["facts"]
        if not isinstance(row["video"], str) or not isinstance(reason, str) or (failed is None) == (facts is None):
            raise ValueError("not a line of clips.jsonl")
        if failed is not None and failed not in UNUSABLE:
            raise ValueError(f"failed ({failed!r}) must be one of {', '.join(UNUSABLE)}")
        return cls(row["video"], row["stamp"], failed, reason, Facts.from_json(facts) if facts is not None else None)


def check_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """The kinds that leave a clip out, besides :data:`UNUSABLE`. Raises :class:`UserError` on an unknown one."""
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"--exclude {kind}: no such kind. Give some of {', '.join(NOTED)}.")
    return tuple(kind for kind in NOTED if kind in set(kinds))


def judge(clip: CheckedClip, questions: Sequence[Question], exclude: Sequence[str]) -> None:
    """Fill in ``findings`` and ``excluded``."""
    clip.findings = list(_findings(clip, questions))
    reasons = [f"{f.kind}: {f.text}" for f in clip.findings if f.kind in UNUSABLE or f.kind in exclude]
    clip.excluded = "; ".join(reasons)


def _findings(clip: CheckedClip, questions: Sequence[Question]) -> Iterable[Finding]:
    if clip.failed is not None:
        yield Finding(clip.failed, clip.reason)
    if clip.facts is None:
        return
    facts = clip.facts
    if facts.features is None:
        yield from _of_pictures(facts)
    if facts.cut_short:
        yield Finding("cut_short", facts.cut_short)
    if facts.damage:
        yield Finding("damaged", facts.damage)
    if facts.gaps:
        yield Finding("gap", f"a frame stays on screen at {_listed(facts.gaps)}")
    if facts.variable_frame_rate:
        yield Finding("variable_rate", f"{facts.fps:.2f} frames a second on average, at uneven distances")
    if abs(facts.first_pts_s) >= LATE_START_S:
        yield Finding("late_start", f"the first frame's time stamp is {facts.first_pts_s:g} s; times count from it")
    if facts.rotation:
        yield Finding("rotated", f"turned by {facts.rotation} degrees when shown")
    if facts.pixel_aspect != 1:
        yield Finding("odd_pixels", f"pixels are {facts.pixel_aspect:g} times as wide as high")
    yield from _of_questions(facts, questions)


def _of_pictures(facts: Facts) -> Iterable[Finding]:
    """At most one of all_black and black; at most one of still, slideshow and frozen."""
    whole_s = facts.duration_s - min(REST_SHARE * facts.duration_s, REST_S)
    black_s, frozen_s = _total_s(facts.black), _total_s(facts.frozen)
    if black_s >= whole_s:
        yield Finding("all_black", f"{black_s:.1f} s of {facts.duration_s:.1f} s are black")
        return
    if facts.black:
        yield Finding("black", f"{_listed(facts.black)} of {facts.duration_s:.1f} s")
    if facts.num_frames == 1:
        yield Finding("still", "a single frame")
    elif max((s.length_s for s in facts.frozen), default=0.0) >= whole_s:
        yield Finding("still", f"one picture for {frozen_s:.1f} s of {facts.duration_s:.1f} s")
    elif _is_slideshow(facts):
        yield Finding("slideshow", f"{len(facts.frozen)} pictures stand still, for {frozen_s:.1f} s together")
    elif facts.frozen:
        yield Finding("frozen", f"{_listed(facts.frozen)} of {facts.duration_s:.1f} s")


def _is_slideshow(facts: Facts) -> bool:
    """Stretch after stretch, and all but the last end with a sudden change."""
    slides = facts.frozen
    sudden = all(slide.cut for slide in slides[:-1])
    return len(slides) >= SLIDES and sudden and _total_s(slides) >= SLIDES_SHARE * facts.duration_s


def _of_questions(facts: Facts, questions: Sequence[Question]) -> Iterable[Finding]:
    said = [q for q in questions if q.duration_s is not None]
    differing = [q for q in said if abs((q.duration_s or 0.0) - facts.duration_s) > DURATION_DIFFERS_S]
    if differing:
        text = _named([(q, f"duration_s {q.duration_s:g}") for q in differing])
        yield Finding("duration_differs", f"the file lasts {facts.duration_s:.2f} s, but {text}")
    late = past_end(questions, facts.duration_s)
    if late:
        text = _named([(q, f"{start_s:g} to {end_s:g} s") for q, start_s, end_s in late])
        yield Finding("past_end", f"past the last readable frame, which ends at {facts.duration_s:.2f} s: {text}")


def past_end(questions: Sequence[Question], duration_s: float) -> list[tuple[Question, float, float]]:
    """The questions with a time past the end, each with its latest such time (start and end in seconds)."""
    out = []
    for question in questions:
        late = [span for span in question.spans if is_past_end(*span, duration_s)]
        if late:
            out.append((question, *max(late, key=lambda span: span[1])))
    return out


def _total_s(stretches: Sequence[Stretch]) -> float:
    return sum(stretch.length_s for stretch in stretches)


def _listed(stretches: Sequence[Stretch]) -> str:
    words = [f"{s.start_s:.1f} to {s.end_s:.1f} s" for s in stretches[:LISTED]]
    return ", ".join(words) + (f" and {len(stretches) - LISTED} more" if len(stretches) > LISTED else "")


def _named(items: Sequence[tuple[Question, str]]) -> str:
    words = [f"{q.id}{f' (line {q.line})' if q.line else ''}: {text}" for q, text in items[:LISTED]]
    return "; ".join(words) + (f"; and {len(items) - LISTED} more questions" if len(items) > LISTED else "")
