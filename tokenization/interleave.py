"""One sample as one row of ids: prompt, frames with their times, question, answer (paper 3.1; TRACE).

::

    <prompt before the video>  [ 8 x vision, 6 x frame-time ] per frame  <prompt after it>  answer
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from timeexpert.errors import UserError

from .events import Event, EventCodec, EventSequence
from .number_format import NumberFormatError
from .text import TextTokenizer


class InterleaveError(UserError):
    """Frames or answers that do not make a row: no frame, times out of order, no room."""


@dataclass(frozen=True)
class EncodedSample:
    """``ids`` of one row; the answer (what the loss counts) is ``ids[answer_start:]``."""

    ids: list[int]
    answer_start: int
    num_frames: int
    dropped_events: int


def interleave(
    codec: EventCodec,
    text: TextTokenizer,
    prompt: str,
    frame_times_s: Sequence[float],
    events: Iterable[Event] | None,
    *,
    visual_tokens_per_frame: int = 8,
    max_tokens: int | None = None,
) -> EncodedSample:
    """Ids of one question about one video; ``events`` is ``None`` where the answer is to be generated.

    Past ``max_tokens`` whole events are dropped from the end and counted: a cut inside an event would teach
    malformed numbers. Raises :class:`InterleaveError` where not even the first event has room.
    """
    before, after = text.prompt(prompt)
    ids = [*before, *frame_ids(codec, frame_times_s, visual_tokens_per_frame), *after]
    encoded = None if events is None else _encode_events(codec, events)
    least = len(ids) + (len(encoded[0]) + 1 if encoded else 0)
    if max_tokens is not None and least > max_tokens:
        prompt_tokens = len(before) + len(after)
        raise InterleaveError(
            f"max_tokens ({max_tokens}) is too few: {len(frame_times_s)} frames take {len(ids) - prompt_tokens}, "
            f"the prompt {prompt_tokens}, the first event and the end {least - len(ids)}; {least} in all. "
            "Allow more tokens, sample fewer frames or shorten the text."
        )
    if encoded is None:
        return EncodedSample(ids, len(ids), len(frame_times_s), 0)
    kept = _fitting(encoded, None if max_tokens is None else max_tokens - len(ids) - 1)
    answer = [token for event in encoded[:kept] for token in event] + [codec.text.eos_id]
    return EncodedSample([*ids, *answer], len(ids), len(frame_times_s), len(encoded) - kept)


def answer_length(codec: EventCodec, events: Iterable[Event]) -> int:
    """Tokens of a whole answer, end of sequence included."""
    return len(codec.encode(events))


def snap_events(
    events: Iterable[Event], frame_times_s: Sequence[float], mode: Literal["none", "nearest", "inside"]
) -> EventSequence:
    """Events whose times are times of sampled frames, which are what a model can see.

    'nearest': each time becomes the nearest one, the earlier of two that are equally near (TRACE's training).
    'inside': start becomes the first sampled frame not before it and end the last not after it, so that every
    frame of the segment shows the event; 'nearest' where there is none between. 'none' changes nothing.
    """
    sequence = EventSequence(tuple(events))
    if mode == "none":
        return sequence
    if mode not in ("nearest", "inside"):
        raise InterleaveError(f"snap mode ({mode!r}) must be one of none, nearest, inside.")
    _check_times(frame_times_s)
    return EventSequence(tuple(_snap(event, frame_times_s, mode) for event in sequence))


def _snap(event: Event, frame_times_s: Sequence[float], mode: str) -> Event:
    if event.start_s is None or event.end_s is None:
        return event
    first, stop = bisect_left(frame_times_s, event.start_s), bisect_right(frame_times_s, event.end_s)
    if mode == "inside" and first < stop:
        return replace(event, start_s=float(frame_times_s[first]), end_s=float(frame_times_s[stop - 1]))
    return replace(event, start_s=_nearest(frame_times_s, event.start_s), end_s=_nearest(frame_times_s, event.end_s))


def _nearest(times_s: Sequence[float], time_s: float) -> float:
    i = bisect_left(times_s, time_s)
    return float(min(times_s[max(i - 1, 0) : i + 1], key=lambda t: abs(t - time_s)))


def frame_ids(codec: EventCodec, frame_times_s: Sequence[float], visual_tokens: int) -> list[int]:
    """Ids of all frames: per frame its visual tokens, then its time (paper: 8 + 6)."""
    _check_times(frame_times_s)
    if visual_tokens < 1:
        raise InterleaveError(f"visual_tokens_per_frame ({visual_tokens}) must be 1 or more.")
    ids: list[int] = []
    for i, time_s in enumerate(frame_times_s):
        try:
            ids += [*[codec.ids.vision] * visual_tokens, *codec.encode_frame_time(time_s)]
        except NumberFormatError as error:
            raise InterleaveError(f"frame_times_s[{i}]: {error}") from None
    return ids


def _encode_events(codec: EventCodec, events: Iterable[Event]) -> list[list[int]]:
    encoded = []
    for i, event in enumerate(events):
        try:
            encoded.append(codec.encode_event(event))
        except UserError as error:
            raise InterleaveError(f"events[{i}]: {error}") from None
    if not encoded:
        raise InterleaveError("events is empty. Give at least one event, or None where the answer is generated.")
    return encoded


def _check_times(frame_times_s: Sequence[float]) -> None:
    if not len(frame_times_s):
        raise InterleaveError("frame_times_s is empty: sample at least one frame.")
    for i in range(1, len(frame_times_s)):
        if not frame_times_s[i - 1] <= frame_times_s[i]:
            raise InterleaveError(
                f"frame_times_s[{i}] ({frame_times_s[i]}) is before the frame ahead of it ({frame_times_s[i - 1]}); "
                "frames must be in the order of their times."
            )


def _fitting(encoded: list[list[int]], room: int | None) -> int:
    """How many of the first events fit into ``room`` tokens."""
    used, kept = 0, 0
    for event in encoded:
        used += len(event)
        if room is not None and used > room:
            break
        kept += 1
    return kept
