"""Black and frozen stretches of a clip, found frame by frame in small grey pictures; and gaps between frames."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite
from typing import NamedTuple

import numpy as np

from timeexpert.errors import UserError

SIZE = (36, 64)  # height and width of the pictures that are compared
GAP_TIMES_MEDIAN = 5  # in a slow slide show every frame stays long, and none is a gap


@dataclass(frozen=True, kw_only=True)
class StretchConfig:
    """What counts as black, frozen or a gap. Levels are steps of 255, times seconds.

    A frame is black when no value of its small picture is above ``black_level``: with a share of lit pixels allowed, a
    real clip's logo, which draws itself on black, passed for black. Frames are frozen while no value differs by more
    than ``frozen_level`` from the first of them.
    """

    black_level: int = 20
    black_s: float = 1.0
    frozen_level: int = 3
    frozen_s: float = 3.0
    gap_s: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_s") and not (isfinite(value) and value > 0):
                raise UserError(f"{field.name} ({value}) must be a number of seconds > 0.")
            if field.name.endswith("_level") and not 0 <= value <= 255:
                raise UserError(f"{field.name} ({value}) must be from 0 to 255.")


class Stretch(NamedTuple):
    """Seconds in the clip's own time. ``cut``: it ends with a sudden change of the picture."""

    start_s: float
    end_s: float
    cut: bool = False

    @property
    def length_s(self) -> float:
        """Seconds it lasts."""
        return self.end_s - self.start_s


class StretchFinder:
    """Takes the frames of a clip in order, keeps two of them; ``black`` and ``frozen`` hold what was found.

    A stretch lasts until the next frame that does not belong to it is shown, or until the clip ends. Its longest frame
    is left out when a frozen one is measured: a frame that stays on screen is no repeat, but may be a gap. Black is
    not frozen. What lasts from the first frame to the end counts however short the clip is.
    """

    def __init__(self, config: StretchConfig) -> None:
        self.config = config
        self.black: list[Stretch] = []
        self.frozen: list[Stretch] = []
        self._black_from: float | None = None
        self._anchor: np.ndarray | None = None  # the first frame of the run of equal ones
        self._anchor_s, self._longest_s = 0.0, 0.0
        self._last: np.ndarray | None = None
        self._last_s = -np.inf
        self._first_s: float | None = None

    def add(self, gray: np.ndarray, time_s: float) -> None:
        """One frame: uint8 [H, W], seconds. A frame that comes out of order (damaged time stamps) is passed over."""
        if time_s <= self._last_s:
            return
        if self._first_s is None:
            self._first_s = time_s
        picture = gray.astype(np.int16)
        if int(gray.max()) <= self.config.black_level:
            self._end_frozen(time_s, cut=True)
            self._anchor = None
            if self._black_from is None:
                self._black_from = time_s
        else:
            self._end_black(time_s)
            if self._anchor is not None and not self._differ(picture, self._anchor):
                self._longest_s = max(self._longest_s, time_s - self._last_s)
            else:
                cut = self._last is not None and self._differ(picture, self._last)
                self._end_frozen(time_s, cut=cut)
                self._anchor, self._anchor_s, self._longest_s = picture, time_s, 0.0
        self._last, self._last_s = picture, time_s

    def finish(self, duration_s: float) -> None:
        """The clip ends."""
        self._end_frozen(duration_s, cut=False, whole=self._first_s == self._anchor_s < self._last_s)
        self._end_black(duration_s, whole=self._first_s == self._black_from)

    def _differ(self, a: np.ndarray, b: np.ndarray) -> bool:
        return int(np.abs(a - b).max()) > self.config.frozen_level

    def _end_frozen(self, time_s: float, *, cut: bool, whole: bool = False) -> None:
        if self._anchor is None:
            return
        longest_s = max(self._longest_s, time_s - self._last_s)
        if whole or time_s - self._anchor_s - longest_s >= self.config.frozen_s:
            self.frozen.append(Stretch(self._anchor_s, time_s, cut))

    def _end_black(self, time_s: float, *, whole: bool = False) -> None:
        if self._black_from is not None and (whole or time_s - self._black_from >= self.config.black_s):
            self.black.append(Stretch(self._black_from, time_s))
        self._black_from = None


def gaps(frame_times_s: np.ndarray, duration_s: float, config: StretchConfig) -> list[Stretch]:
    """Single frames that stay on screen for ``gap_s`` or more, and far longer than is usual in this clip."""
    shown_s = np.diff(np.append(frame_times_s, duration_s))
    if len(shown_s) < 3:
        return []
    long = shown_s >= max(config.gap_s, GAP_TIMES_MEDIAN * float(np.median(shown_s)))
    return [Stretch(float(frame_times_s[i]), float(frame_times_s[i] + shown_s[i])) for i in np.flatnonzero(long)]
