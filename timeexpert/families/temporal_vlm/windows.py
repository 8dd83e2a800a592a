"""Clips of a video and windows of a clip, as index arithmetic (TemporalVLM 3.1; FACTS B1 steps 1 and 4)."""

from __future__ import annotations

from typing import Literal

Partial = Literal["last", "timechat"]
ClipTokens = Literal["pool", "all", "non_overlapping", "overlap_add"]


def clip_of_frames(num_frames: int, clips: int) -> list[int]:
    """The clip (0-based) of each frame: equal contiguous parts of the frames, which differ by one frame at most.

    Frames that were sampled at equal distances make clips of equal duration. With fewer frames than clips, each frame
    is a clip of its own and the last clips have none.
    """
    parts = min(clips, num_frames)
    return [i * parts // num_frames for i in range(num_frames)]


def window_starts(frames: int, window: int, overlap: int, partial: Partial = "last") -> list[int]:
    """First frames of the windows of one clip of ``frames`` frames, 1 or more.

    ``last``: as many windows as it takes to reach the last frame; only the last one may be partly filled, and a clip
    shorter than a window is one window. ``timechat``: a window at every step, also where all its frames were seen (96
    frames, 32 with an overlap of 16: 6 windows and not 5).
    """
    step = window - overlap
    return list(range(0, frames if partial == "timechat" else max(1, frames - overlap), step))


def tokens_of(starts: list[int], window: int, queries: int, how: ClipTokens, pooled: int) -> int:
    """Tokens of one clip after fusion, as ``how`` makes them of ``queries`` tokens per window."""
    if how == "pool":
        return pooled
    if how == "all":
        return len(starts) * queries
    if how == "non_overlapping":
        return sum(start % window == 0 for start in starts) * queries
    return starts[-1] * queries // window + queries
