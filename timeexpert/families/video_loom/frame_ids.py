"""Frame ids and seconds: the only times that a VideoLoom reads and writes (VideoLoom, equation 4).

N frames of a video of D seconds: frame ``id`` (from 0) stands for the interval from ``id * D / N`` to
``(id + 1) * D / N``, in whose middle uniform sampling looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Literal

EndOf = Literal["frame", "start"]


@dataclass(frozen=True)
class FrameIds:
    """The frame ids of one sampled video of ``duration_s`` seconds.

    ``end_of``: where an event ends whose last frame is ``id``. ``frame``: with that frame, at ``(id + 1) * D / N``.
    ``start``: where that frame begins, at ``id * D / N``, so that an event of one frame is a point in time.
    """

    num_frames: int
    duration_s: float
    end_of: EndOf = "frame"

    def start_s(self, frame_id: int) -> float:
        """When a frame's interval begins, in seconds."""
        return frame_id * self.duration_s / self.num_frames

    def end_s(self, frame_id: int) -> float:
        """When an event ends whose last frame is ``frame_id``, in seconds."""
        return self.start_s(frame_id + 1 if self.end_of == "frame" else frame_id)

    def moment_s(self, frame_id: int) -> float:
        """The middle of a frame's interval, in seconds: when a point in time is."""
        return (frame_id + 0.5) * self.duration_s / self.num_frames

    def first(self, start_s: float) -> int:
        """The first frame of an event that starts at ``start_s``: the one whose interval begins nearest to it."""
        return self._inside(self._nearest(start_s))

    def last(self, start_s: float, end_s: float) -> int:
        """The last frame of an event: the one at whose end, by ``end_of``, is nearest to ``end_s``; never before the
        first, so that an event shorter than half a frame still has one."""
        nearest = self._nearest(end_s) - (1 if self.end_of == "frame" else 0)
        return max(self.first(start_s), self._inside(nearest))

    def at(self, time_s: float) -> int:
        """The frame in whose interval a point in time lies."""
        return self._inside(floor(time_s * self.num_frames / self.duration_s))

    def _nearest(self, time_s: float) -> int:
        return floor(time_s * self.num_frames / self.duration_s + 0.5)

    def _inside(self, frame_id: int) -> int:
        return min(max(frame_id, 0), self.num_frames - 1)
