"""An event on its way through re-annotation, with everything that was done to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from timeexpert.tokenization import Event

Span = tuple[float, float]  # start and end in seconds


@dataclass(frozen=True)
class Step:
    """One change. ``kind`` is a word for counting (merged, split, snapped, ...), ``why`` a clause for people.

    ``before_s`` holds the spans that went in (several for a merge), ``after_s`` the span that came out. ``cuts_s`` are
    the cuts that boundaries moved to.
    """

    kind: str
    why: str
    before_s: tuple[Span, ...]
    after_s: Span
    cuts_s: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``cuts_s`` only where there are any."""
        row: dict[str, Any] = {
            "kind": self.kind,
            "why": self.why,
            "before_s": [list(span) for span in self.before_s],
            "after_s": list(self.after_s),
        }
        return row | {"cuts_s": list(self.cuts_s)} if self.cuts_s else row


@dataclass(frozen=True)
class Traced:
    """A timed event, the numbers of the original events it comes from, and the steps in between."""

    event: Event
    sources: tuple[int, ...]
    steps: tuple[Step, ...] = ()

    @property
    def span(self) -> Span:
        """Start and end in seconds."""
        return span_of(self.event)

    def moved(self, kind: str, why: str, span: Span, cuts_s: tuple[float, ...] = ()) -> Traced:
        """The event at another time, and the step that says so."""
        event = replace(self.event, start_s=span[0], end_s=span[1])
        return Traced(event, self.sources, (*self.steps, Step(kind, why, (self.span,), span, cuts_s)))


def span_of(event: Event) -> Span:
    """Start and end in seconds of an event that has them."""
    assert event.start_s is not None and event.end_s is not None
    return event.start_s, event.end_s


def begin(events: Sequence[Event]) -> list[Traced]:
    """Events in order of time, each from itself."""
    order = sorted(range(len(events)), key=lambda i: span_of(events[i]))
    return [Traced(events[i], (i,)) for i in order]


def as_written(traced: Sequence[Traced]) -> list[Traced]:
    """In the order in which the original answer named them; the parts of a split one after the other."""
    return sorted(traced, key=lambda one: (min(one.sources), one.span))
