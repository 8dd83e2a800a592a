"""The packet index of a video: when each frame is shown and where decoding can start, without decoding."""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import av
import numpy as np

# What demuxing raises on damage. IndexError is PyAV's, for a stream that first shows up in the middle of a file.
DEMUX_ERRORS = (av.error.FFmpegError, OSError, IndexError)
SAME_TIME_S = 1e-6  # an asked time this little before a frame means that frame: i / fps rounds both ways
GUESSED_PTS = ("avi",)  # FFmpeg's names of containers without presentation times of their own


def on_screen(frame_times_s: np.ndarray, times_s: Any) -> np.ndarray:
    """Index (int64) of the frame on screen at each time: the last that has begun; before the first, the first.

    A time at most a microsecond before a frame counts as that frame's. ``frame_times_s`` is sorted and not empty.
    """
    asked = np.asarray(times_s, dtype=np.float64)
    return np.maximum(np.searchsorted(frame_times_s, asked + SAME_TIME_S, side="right") - 1, 0)


class KeyFrame(NamedTuple):
    """A packet at which decoding can start: its presentation time stamp, and its place among the packets."""

    pts: int
    place: int


@dataclass(frozen=True)
class PacketIndex:
    """Presentation time stamps of the frames of one stream, in units of ``time_base`` seconds.

    ``pts`` is sorted, without repeats; ``durations`` (same length) is 0 where the container does not say.
    ``can_seek`` is false where packets carry no true presentation time (AVI: FFmpeg guesses it, two frames
    late in H.264). Then the sorted decoding times are taken, the i-th frame to come out of the decoder gets
    the i-th of them, and decoding always starts at the start.
    ``cut_short``: the container announces more than is there (``announced_frames`` 0 and ``announced_s`` 0.0
    where it does not say how much).
    """

    pts: np.ndarray
    durations: np.ndarray
    keys: tuple[KeyFrame, ...]
    time_base: Fraction
    can_seek: bool = True
    cut_short: bool = False
    announced_frames: int = 0
    announced_s: float = 0.0

    def seconds(self, pts: Any) -> Any:
        """Seconds (float64) from the first frame to time stamp ``pts`` (int or array)."""
        return (np.asarray(pts, dtype=np.int64) - self.origin) * self.time_base.numerator / self.time_base.denominator

    @property
    def origin(self) -> int:
        """Time stamp of the first frame: second 0."""
        return int(self.pts[0])

    @property
    def times_s(self) -> np.ndarray:
        """Presentation time of each frame in seconds from the first: float64, sorted."""
        return self.seconds(self.pts)

    @property
    def span_s(self) -> float:
        """First to last time stamp in seconds, in exact arithmetic (damaged time stamps may overflow int64)."""
        return float((int(self.pts[-1]) - self.origin) * self.time_base)

    @property
    def duration_s(self) -> float:
        """The last frame's time plus its duration: the packet's own, else the median distance, else 1/25 s."""
        gaps = np.diff(self.times_s)
        last_s = float(int(self.durations[-1]) * self.time_base) or (float(np.median(gaps)) if len(gaps) else 0.04)
        return self.span_s + last_s

    @property
    def fps(self) -> float:
        """Mean frames per second."""
        return (len(self.pts) - 1) / self.span_s if len(self.pts) > 1 else 1 / self.duration_s

    @property
    def variable_frame_rate(self) -> bool:
        """Whether distances between frames differ by more than the rounding of time stamps explains."""
        gaps = np.diff(self.pts)
        return len(gaps) > 1 and int(gaps.max() - gaps.min()) > max(2, 0.02 * float(np.median(gaps)))

    @cached_property
    def _key_pts(self) -> list[int]:
        return [key.pts for key in self.keys]

    def key_before(self, pts: int) -> int:
        """Number of the last key frame shown no later than ``pts``; 0 where there is none."""
        return max(bisect_right(self._key_pts, pts) - 1, 0)

    def only(self, pts: np.ndarray) -> PacketIndex:
        """The index of those frames alone whose time stamp is in ``pts``."""
        keep = np.isin(self.pts, pts)
        return replace(self, pts=self.pts[keep], durations=self.durations[keep])


def raise_if_short_of_memory(error: BaseException, file_bytes: int) -> None:
    """Raise a MemoryError of FFmpeg's again where it speaks of this machine, not of a file of ``file_bytes``.

    A damaged file may ask for a packet of any size, a sound one for none that is larger than itself. Where as much can
    be had, the file is to blame.
    """
    if isinstance(error, MemoryError):
        try:
            mmap.mmap(-1, max(1, file_bytes)).close()  # takes addresses, and no memory
        except (OSError, MemoryError):
            raise error from None


def read_index(container: Any, stream: Any, max_frames: int) -> PacketIndex | None:
    """Demux a freshly opened container to its end. ``None`` where packets have no time stamps at all.

    Reading stops one past ``max_frames``, so that the caller can refuse. Never raises on damage: what the
    container cannot give is missing, and ``cut_short`` says so.
    """
    rows: list[tuple[int | None, int | None, int, bool, bool]] = []  # pts, dts, duration, key, discard
    reached_s, broken = 0.0, False
    packets = container.demux()
    while len(rows) <= max_frames:
        try:
            packet = next(packets, None)
        except DEMUX_ERRORS as error:
            raise_if_short_of_memory(error, container.size)
            broken, packet = True, None
        if packet is None:
            break
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None and packet.time_base:
            reached_s = max(reached_s, float((stamp + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index == stream.index and packet.size:
            broken = broken or packet.is_corrupt
            rows.append((packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, packet.is_discard))
    can_seek = container.format.name not in GUESSED_PTS and all(row[0] is not None for row in rows)
    stamps = [stamp for stamp in (row[0] if can_seek else row[1] for row in rows) if stamp is not None]
    if len(stamps) < len(rows):
        return None
    shown = {stamp: row[2] for stamp, row in zip(stamps, rows, strict=True) if not row[4]}
    keys = {stamp: place for place, (stamp, row) in enumerate(zip(stamps, rows, strict=True)) if row[3]}
    start = KeyFrame(min(stamps, default=0), 0)
    pts = np.array(sorted(shown), dtype=np.int64)
    index = PacketIndex(
        pts=pts,
        durations=np.array([shown[p] for p in pts.tolist()], dtype=np.int64),
        keys=tuple(KeyFrame(p, keys[p]) for p in sorted(keys)) if can_seek and keys else (start,),
        time_base=stream.time_base,
        can_seek=can_seek,
    )
    return _with_announcement(index, container, stream, reached_s, broken) if len(pts) else index


def _with_announcement(index: PacketIndex, container: Any, stream: Any, reached_s: float, broken: bool) -> PacketIndex:
    """Compare what the container announces with what came: over all streams, as sound may outlast the picture."""
    announced_s = (container.duration or 0) / av.time_base  # Matroska counts from 0, MP4 from the first frame
    missing_s = announced_s - reached_s
    step_s = index.span_s / max(len(index.pts) - 1, 1)
    cut_short = broken or missing_s > max(0.25, 2 * step_s)
    return replace(index, cut_short=cut_short, announced_frames=stream.frames, announced_s=announced_s)


class FramesOnScreen:
    """Decoded frames in presentation order, read no further than an asked time needs."""

    def __init__(self, frames: Iterator[Any]) -> None:
        self._frames = frames
        self._shown: Any = None
        self._ahead: Any = None

    def show(self, target: int) -> Any:
        """The last frame with pts <= ``target``, or ``None``. Targets must not go back."""
        while self._shown is None or self._shown.pts != target:
            if self._ahead is None:
                self._ahead = next(self._frames, None)
            if self._ahead is None or self._ahead.pts > target:
                break
            if self._shown is None or self._ahead.pts > self._shown.pts:
                self._shown = self._ahead
            self._ahead = None
        return self._shown
