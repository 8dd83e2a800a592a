"""Labels of a video's frames as runs: which class, for how many frames. Metrics never look at single frames.

A video of 10,000 frames has some 20 actions, so everything that follows costs what 20 costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import EvaluationError

BACKGROUND = "background"
MAX_FRAMES = 2**40  # sums over 10,000 such videos still fit into an int64 and, exactly, into a float64


@dataclass(frozen=True)
class FrameLabels:
    """``names[i]`` is the class of the frames from ``ends[i - 1]`` (0 for the first run) up to ``ends[i]``.

    Runs are as long as they can be: neighbours have different names. There are ``ends[-1]`` frames.
    """

    names: tuple[str, ...]
    ends: tuple[int, ...]

    @property
    def num_frames(self) -> int:
        """How many frames are labelled."""
        return self.ends[-1] if self.ends else 0

    @classmethod
    def from_runs(cls, runs: Iterable[tuple[str, int]]) -> FrameLabels:
        """Labels from ``(name, number of frames)``; neighbours of one name become one run, empty runs vanish.

        Raises :class:`EvaluationError` on a name that is not text and on a number of frames that is none.
        """
        names: list[str] = []
        ends: list[int] = []
        end = 0
        for run in runs:
            try:
                name, count = run
                frames = int(count)
                good = isinstance(name, str) and frames == count and 0 <= frames <= MAX_FRAMES - end
            except (TypeError, ValueError, OverflowError):
                good = False
            if not good:
                raise EvaluationError(
                    f"run {run!r} must be a class name and a whole number of frames from 0, in all {MAX_FRAMES}."
                )
            end += frames
            if frames and names and names[-1] == name:
                ends[-1] = end
            elif frames:
                names.append(name)
                ends.append(end)
        return cls(tuple(names), tuple(ends))

    @classmethod
    def from_frames(cls, labels: Sequence[str] | NDArray[Any]) -> FrameLabels:
        """Labels from one name (or class index) per frame, in order."""
        if isinstance(labels, np.ndarray):
            if labels.ndim != 1:
                raise EvaluationError(f"frame labels have shape {labels.shape}; one label per frame is expected, [T].")
            ends = np.append(np.flatnonzero(labels[1:] != labels[:-1]) + 1, len(labels))[: len(labels)]
            return cls(tuple(str(labels[end - 1]) for end in ends), tuple(ends.tolist()))
        return cls.from_runs((str(name), len(list(same))) for name, same in groupby(labels))

    @classmethod
    def from_text(cls, text: str, separator: str = "\n") -> FrameLabels:
        """Labels from a text with one name per frame, each followed by ``separator`` (the last one may lack it).

        Empty names are no frames. The layout of ``groundTruth/*.txt`` of 50Salads, GTEA and Breakfast.
        A run is measured by comparing ever longer stretches, so its cost is that of reading its bytes once.
        """
        if text and not text.endswith(separator):
            text += separator
        runs: list[tuple[str, int]] = []
        at = 0
        while at < len(text):
            unit = text[at : text.index(separator, at) + len(separator)]
            frames = _repeats(text, unit, at)
            name = unit[: -len(separator)].strip()
            runs.append((name, frames if name else 0))
            at += frames * len(unit)
        return cls.from_runs(runs)

    @classmethod
    def from_events(
        cls, events: Iterable[tuple[float, float, str]], *, num_frames: int, frames_per_s: float
    ) -> tuple[FrameLabels, int]:
        """Labels from events in seconds, and how many events were left out.

        Frame i stands at ``i / frames_per_s`` and belongs to an event with ``start_s <= time < end_s``; where
        events overlap, to the one that was written last; to ``background`` where there is none. An event with a
        time that is no finite number, or one that does not end after it starts, is left out. Raises
        :class:`EvaluationError` unless ``num_frames`` is 1 or more and ``frames_per_s`` above 0.
        """
        if not 1 <= num_frames <= 10**8:
            raise EvaluationError(f"num_frames ({num_frames!r}) must lie between 1 and 100,000,000.")
        if not 0 < frames_per_s < math.inf:
            raise EvaluationError(f"frames_per_s ({frames_per_s!r}) must be a finite number above 0.")
        names = [BACKGROUND]
        painted = np.zeros(num_frames, dtype=np.int32)
        left_out = 0
        for start_s, end_s, text in events:
            try:
                good = math.isfinite(start_s) and math.isfinite(end_s) and start_s < end_s
            except (TypeError, OverflowError):
                good = False
            if not good:
                left_out += 1
                continue
            first, stop = (_frame_at(time_s, frames_per_s, num_frames) for time_s in (start_s, end_s))
            painted[first:stop] = len(names)
            names.append(str(text))
        ends = np.append(np.flatnonzero(np.diff(painted)) + 1, num_frames)
        lengths = np.diff(ends, prepend=0)
        return cls.from_runs((names[painted[end - 1]], int(n)) for end, n in zip(ends, lengths, strict=True)), left_out


def read_frame_labels(path: Path) -> FrameLabels:
    """Labels from a file: one name a line, or MS-TCN's results (a line of ``#``, then the names in one line).

    Raises :class:`EvaluationError` where the file cannot be read.
    """
    try:
        text = path.read_bytes().decode()  # any line ends: labels are stripped
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read: {error}.") from None
    if not text.startswith("#"):
        return FrameLabels.from_text(text)
    return FrameLabels.from_text(text.partition("\n")[2].partition("\n")[0], " ")


def _frame_at(time_s: float, frames_per_s: float, num_frames: int) -> int:
    """The first frame at or after ``time_s``; a millionth of a frame is forgiven, 0.3 s at 10 per second is frame 3."""
    return math.ceil(min(max(time_s * frames_per_s - 1e-6, 0.0), float(num_frames)))


def _repeats(text: str, unit: str, at: int) -> int:
    """How often ``unit`` stands in ``text`` from ``at`` on, one after another."""
    count, step = 1, 1
    while step:
        begin = at + count * len(unit)
        if text.startswith(unit * step, begin):
            count += step
            step *= 2
        else:
            step //= 2
    return count
