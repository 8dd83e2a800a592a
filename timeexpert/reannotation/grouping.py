"""Which fragments are one event: a model is asked until its answer changes nothing; its answers are held to rules.

An answer says for each event of the new list which numbered events it comes from. Merged events run from their first
start to their last end; only the parts of a split have times of their own, inside the event that was split. An answer
that breaks a rule changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from timeexpert.data.records import Sample
from timeexpert.tokenization import Event

from .config import GroupingConfig
from .traced import Span, Step, Traced

MAX_TEXT = 2000  # characters of a caption


@dataclass(frozen=True)
class Group:
    """One event of an answer: the numbers (from 0) of the events it comes from; ``span`` for a part of a split one."""

    sources: tuple[int, ...]
    text: str = ""
    span: Span | None = None


@dataclass(frozen=True)
class Refused:
    """No usable answer: ``kind`` for counting, ``reason`` for people."""

    kind: str
    reason: str


Question = tuple[Sample, Sequence[Event]]  # the events as they are now, in order of time


class Annotator(Protocol):
    """Says how events are to be grouped."""

    name: str

    def group(self, questions: Sequence[Question]) -> Iterator[list[Group] | Refused]:
        """One answer per question, in order: groups that cover every event, in order of time. Not yet held to rules."""
        ...


@dataclass
class Talk:
    """The events of one sample between questions."""

    sample: Sample
    events: list[Traced]
    rounds: int = 0
    changed: bool = True  # by the last answer
    refused: list[Refused] = field(default_factory=list)


def group_all(
    annotator: Annotator,
    talks: Sequence[Talk],
    config: GroupingConfig,
    asked: Callable[[], None] = lambda: None,
) -> None:
    """Ask about all ``talks``, round by round, and change their events. ``asked`` is called after each answer."""
    for _ in range(config.max_rounds):
        active = [talk for talk in talks if talk.changed]
        if not active:
            return
        questions = [(talk.sample, [one.event for one in talk.events]) for talk in active]
        for talk, answer in zip(active, annotator.group(questions), strict=True):
            talk.rounds += 1
            before = [one.event for one in talk.events]
            result = apply(talk.events, answer, config) if not isinstance(answer, Refused) else answer
            if isinstance(result, Refused):
                talk.refused.append(result)
            else:
                talk.events = result
            talk.changed = [one.event for one in talk.events] != before
            asked()


def apply(events: Sequence[Traced], groups: Sequence[Group], config: GroupingConfig) -> list[Traced] | Refused:
    """The events that an answer makes of ``events``, or which rule it breaks."""
    reason = _broken_rule([one.event for one in events], groups, config)
    if reason:
        return Refused("breaks a rule", reason)
    parts = {i: sum(g.sources == (i,) for g in groups) for i in range(len(events))}
    return sorted((_made(events, group, parts) for group in groups), key=lambda one: one.span)


def _made(events: Sequence[Traced], group: Group, parts: dict[int, int]) -> Traced:
    first = group.sources[0]
    if len(group.sources) == 1 and parts[first] == 1:
        return events[first]
    chosen = [events[i] for i in group.sources]
    spans = tuple(one.span for one in chosen)
    if group.span is not None:
        span, kind, why = group.span, "split", f"split: one of {parts[first]} events that the model sees in one"
    else:
        span = (min(start_s for start_s, _ in spans), max(end_s for _, end_s in spans))
        kind, why = "merged", f"merged: {len(chosen)} fragments that the model takes for one event"
    sources = tuple(sorted({source for one in chosen for source in one.sources}))
    earlier = tuple(step for one in chosen for step in one.steps)
    return Traced(Event(*span, (), group.text.strip()), sources, (*earlier, Step(kind, why, spans, span)))


def _broken_rule(events: Sequence[Event], groups: Sequence[Group], config: GroupingConfig) -> str:
    """Which rule ``groups`` break, or nothing. Numbers in the text count from 1, as the model was shown them."""
    expected = 0
    for number, group in enumerate(groups):
        sources = group.sources
        again = number > 0 and sources == groups[number - 1].sources and len(sources) == 1
        if not again and (not sources or sources != tuple(range(expected, expected + len(sources)))):
            return f"item {number + 1} must come from event {expected + 1} on, in order; it names {_shown(sources)}."
        if sources[-1] >= len(events):
            return f"item {number + 1} names event {sources[-1] + 1}; there are {len(events)}."
        expected = sources[-1] + 1
        split = again or (number + 1 < len(groups) and groups[number + 1].sources == sources)
        if len(group.text) > MAX_TEXT:
            return f"item {number + 1} has a text of more than {MAX_TEXT} characters."
        if (split or len(sources) > 1) and not group.text.strip():
            return f"item {number + 1} is a new event without text."
        reason = _wrong_part(events, groups, number, config) if split else _wrong_whole(events, group, config)
        if reason:
            return f"item {number + 1} {reason}"
    return "" if expected == len(events) else f"event {expected + 1} is missing."


def _wrong_part(events: Sequence[Event], groups: Sequence[Group], number: int, config: GroupingConfig) -> str:
    group, event = groups[number], events[groups[number].sources[0]]
    if group.span is None:
        return "is a part of a split event and needs start_s and end_s."
    start_s, end_s = group.span
    assert event.start_s is not None and event.end_s is not None
    if start_s < event.start_s or end_s > event.end_s:
        return f"({start_s:g} to {end_s:g} s) leaves the event that it splits ({event.start_s:g} to {event.end_s:g} s)."
    if end_s - start_s < config.min_part_s or end_s <= start_s:
        return f"({start_s:g} to {end_s:g} s) is shorter than min_part_s ({config.min_part_s:g})."
    before = groups[number - 1] if number else None
    if before is not None and before.sources == group.sources and before.span and start_s < before.span[1]:
        return f"begins at {start_s:g} s, before the part before it ends."
    return ""


def _wrong_whole(events: Sequence[Event], group: Group, config: GroupingConfig) -> str:
    """A kept event stays as it is; a merged one may not reach across too long a time without an event."""
    chosen = [events[i] for i in group.sources]
    if group.span is not None:
        return "is no part of a split event, so its times follow from its events; it names others."
    if len(chosen) == 1:
        changed = group.text and group.text.strip() != chosen[0].text.strip()
        return "is an event that stays as it is, and must keep its text." if changed else ""
    reach_s = chosen[0].end_s
    for event in chosen[1:]:
        assert reach_s is not None and event.start_s is not None and event.end_s is not None
        if event.start_s - reach_s > config.max_gap_s:
            return f"merges across {event.start_s - reach_s:.2f} s without an event; max_gap_s is {config.max_gap_s:g}."
        reach_s = max(reach_s, event.end_s)
    return ""


def _shown(sources: tuple[int, ...]) -> str:
    return ", ".join(str(i + 1) for i in sources[:10]) or "none"
