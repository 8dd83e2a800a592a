"""Frames among the tokens: prompt, frames with their times, question (paper 3.1; TRACE).

::

    <prompt before the video>  [ 8 x vision, 6 x frame-time ] per frame  <prompt after it>
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from timeexpert.errors import UserError

from .events import Event, EventCodec, EventSequence
from .number_format import NumberFormatError
from .text import TextTokenizer


class InterleaveError(UserError):
    """Frames that do not make a row: none, or times out of order."""


def interleave(
    codec: EventCodec,
    text: TextTokenizer,
    prompt: str,
    frame_times_s: Sequence[float],
    *,
    visual_tokens_per_frame: int = 8,
) -> list[int]:
    """Ids of one question about one video, up to where the answer begins."""
    before, after = text.prompt(prompt)
    return [*before, *frame_ids(codec, frame_times_s, visual_tokens_per_frame), *after]


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


def _check_times(frame_times_s: Sequence[float]) -> None:
    if not len(frame_times_s):
        raise InterleaveError("frame_times_s is empty: sample at least one frame.")
    for i in range(1, len(frame_times_s)):
        if not frame_times_s[i - 1] <= frame_times_s[i]:
            raise InterleaveError(
                f"frame_times_s[{i}] ({frame_times_s[i]}) is before the frame ahead of it ({frame_times_s[i - 1]}); "
                "frames must be in the order of their times."
            )
