"""An event as a line of text."""

from __future__ import annotations

from timeexpert.tokenization import Event


def readable(event: Event) -> str:
    """One line: ``12.3 - 15.6 s: caption``, ``12.3 s (score 4.5)``, or the text alone where there is no time."""
    times = f"{' - '.join(f'{t:.1f}' for t in event.times_s)} s" if event.times_s else ""
    scores = f"(score {', '.join(f'{s:g}' for s in event.scores)})" if event.scores else ""
    head, text = " ".join(filter(None, (times, scores))), " ".join(event.text.split())
    return f"{head}: {text}" if head and text else head or text
