"""Rules of action segmentation: steps in order, next to each other, named out of a label set."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from timeexpert.errors import did_you_mean
from timeexpert.tokenization import Event

# Frames have one label each, but published lines overlap: the example of TemporalVLM (figure 8) by 0.6 s.
OVERLAP_TOLERANCE_S = 1.0
CLASSES = "classes"  # of a sample's meta: its label set


def words_of(text: str) -> str:
    """``Cut_Tomato.`` -> ``cut tomato``: NFKC, case folded, whatever is neither letter nor digit as one blank."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() or unicodedata.combining(c) else " " for c in folded).split())


def classes_of(meta: object) -> tuple[str, ...] | None:
    """The label set of a sample's ``meta``, or ``None`` where it names none (or something that is no list of names)."""
    classes = meta.get(CLASSES) if isinstance(meta, dict) else None
    good = isinstance(classes, (list, tuple)) and classes and all(isinstance(name, str) for name in classes)
    return tuple(classes) if good else None  # type: ignore[arg-type]


def step_problems(events: Sequence[Event], classes: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
    """(kind, sentence) for each thing that is wrong with the steps of one video; ``classes`` is its label set.

    Kinds: ``no_time``, ``order``, ``overlap`` (by more than :data:`OVERLAP_TOLERANCE_S`), ``no_label``,
    ``unknown_label``. Labels are compared by their words.
    """
    known = {words_of(name) for name in classes} if classes is not None else None
    last: Event | None = None
    for i, event in enumerate(events):
        if event.start_s is None or event.end_s is None or event.start_s == event.end_s:
            yield "no_time", f"events[{i}] ({event.text!r:.60}) has no start and end; a step of a video has both."
            continue
        if last is not None and last.start_s is not None and last.end_s is not None:
            if event.start_s < last.start_s:
                yield (
                    "order",
                    f"events[{i}] starts at {event.start_s:g} s, before the step ahead of it ({last.start_s:g} s). "
                    "Steps stand in the order of time: sort the lines, or correct the time.",
                )
            elif event.start_s < last.end_s - OVERLAP_TOLERANCE_S:
                yield (
                    "overlap",
                    f"events[{i}] starts at {event.start_s:g} s, {last.end_s - event.start_s:.1f} s before the step "
                    f"ahead of it ends ({last.end_s:g} s); a frame has one action, and {OVERLAP_TOLERANCE_S:g} s is "
                    "forgiven. Correct the times, or ask about such a video as dense captioning.",
                )
        if not event.text.strip():
            yield "no_label", f"events[{i}] ({event.start_s:g} to {event.end_s:g} s) names no action."
        elif known is not None and words_of(event.text) not in known:
            yield (
                "unknown_label",
                f"events[{i}]: action {event.text!r:.80} is not in the label set{_near(event, classes)}",
            )
        last = event


def _near(event: Event, classes: Sequence[str] | None) -> str:
    hint = did_you_mean(event.text, classes or ())
    return f" of {len(classes or ())}.{hint} Correct the action, or add it to the labels."
