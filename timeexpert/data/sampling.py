"""Which frames a model sees: evenly spaced or random times."""

from __future__ import annotations

from math import isfinite
from typing import Any, Literal

import numpy as np

from timeexpert.data.video import Video
from timeexpert.data.video_index import on_screen
from timeexpert.errors import UserError

Mode = Literal["uniform", "random"]
Clip = tuple[np.ndarray, np.ndarray]  # frames uint8 [N, H, W, 3], their presentation times float64 [N]


class SamplingError(UserError):
    """A number of frames or a duration from which no frames can be sampled."""


def uniform_times(duration_s: float, num_frames: int) -> np.ndarray:
    """Centres of ``num_frames`` equal intervals: (i + 0.5) * duration_s / num_frames, float64, all < duration_s."""
    _check(duration_s, num_frames)
    return (np.arange(num_frames) + 0.5) * (duration_s / num_frames)


def random_times(duration_s: float, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """One uniform draw inside each of ``num_frames`` equal intervals: float64, sorted, in [0, duration_s)."""
    _check(duration_s, num_frames)
    times_s = (np.arange(num_frames) + rng.random(num_frames)) * (duration_s / num_frames)
    return np.minimum(times_s, np.nextafter(duration_s, 0.0))  # the product may round up to duration_s itself


def sample_times(
    duration_s: float, num_frames: int, mode: Mode = "uniform", rng: np.random.Generator | None = None
) -> np.ndarray:
    """:func:`uniform_times` or :func:`random_times`, by name. ``random`` needs ``rng``."""
    if mode == "uniform":
        return uniform_times(duration_s, num_frames)
    if mode != "random":
        raise SamplingError(f"mode ({mode!r}) must be uniform or random.")
    if rng is None:
        raise SamplingError("mode random needs rng, a numpy.random.Generator: its seed makes runs repeatable.")
    return random_times(duration_s, num_frames, rng)


def sample_frames(
    video: Video,
    num_frames: int,
    mode: Mode = "uniform",
    rng: np.random.Generator | None = None,
    size: tuple[int, int] | None = None,
) -> Clip:
    """At most ``num_frames`` frames on screen at sampled times, and their own presentation times.

    No frame comes twice: where a frame is on screen at several sampled times (a video with fewer frames than
    asked, a long still), fewer come back. ``size`` as in :meth:`Video.frames_at`.
    """
    times_s = sample_times(video.info.duration_s, num_frames, mode, rng)
    frame_times_s = video.frame_times_s[np.unique(on_screen(video.frame_times_s, times_s))]
    frames, shown_s = video.frames_at(frame_times_s, size)
    first = np.unique(shown_s, return_index=True)[1]  # in a damaged video two times may show the same frame
    return (frames, shown_s) if len(first) == len(shown_s) else (frames[first], shown_s[first])


def frames_from_arrays(frames: np.ndarray, frame_times_s: np.ndarray, asked_times_s: Any) -> Clip:
    """What :meth:`Video.frames_at` returns, picked from frames that are already decoded (all of a clip, sorted)."""
    if len(frames) != len(frame_times_s) or not len(frames):
        raise SamplingError(f"{len(frames)} frames with {len(frame_times_s)} times; both must be equal, and not 0.")
    index = on_screen(frame_times_s, np.asarray(asked_times_s, dtype=np.float64).reshape(-1))
    return frames[index], frame_times_s[index]


def _check(duration_s: float, num_frames: int) -> None:
    if not isfinite(duration_s) or duration_s <= 0:
        raise SamplingError(f"duration_s ({duration_s!r}) must be a positive number of seconds.")
    if isinstance(num_frames, bool) or not isinstance(num_frames, (int, np.integer)) or num_frames < 1:
        raise SamplingError(f"num_frames ({num_frames!r}) must be a whole number, 1 or more.")
