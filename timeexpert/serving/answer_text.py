"""An answer as lines to read, also while it is being written."""

from __future__ import annotations

from collections.abc import Iterable

from timeexpert.tokenization import Event

HALF_CHARACTER = "\ufffd"  # bytes of a character whose other bytes are still to come


def readable(event: Event) -> str:
    """One line: ``12.3 - 15.6 s: caption``, ``12.3 s (score 4.5)``, or the text alone where there is no time."""
    times = f"{' - '.join(f'{t:.1f}' for t in event.times_s)} s" if event.times_s else ""
    scores = f"(score {', '.join(f'{s:g}' for s in event.scores)})" if event.scores else ""
    head, text = " ".join(filter(None, (times, scores))), " ".join(event.text.split())
    return f"{head}: {text}" if head and text else head or text


def text_so_far(events: Iterable[Event]) -> str:
    """What the events of an unfinished answer say: the beginning of its final text.

    ``events``: those that more tokens can only make longer (``Answering.events_so_far``).
    """
    return "\n".join(readable(event) for event in events).rstrip(HALF_CHARACTER)
