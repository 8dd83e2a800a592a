"""Which shots show the person, and which of them stand beside each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.video_index import on_screen

from .actions import Stretch
from .shots import Shot

ROUNDED_S = 0.0005  # times in samples are rounded to milliseconds


def grid_times_s(frame_times_s: NDArray[np.float64], duration_s: float, fps: float) -> list[float]:
    """Times of the frames that are tracked: those on screen at 0, 1 / fps, 2 / fps ..., each once."""
    asked = np.arange(max(1, int(np.ceil(duration_s * fps - 1e-6)))) / fps
    return [float(t) for t in frame_times_s[np.unique(on_screen(frame_times_s, asked))]]


def inside(times_s: Sequence[float], shot: Shot | Stretch) -> list[int]:
    """Numbers of the times that lie in the shot; where none does, the one on screen at its middle."""
    found = [i for i, t in enumerate(times_s) if shot.start_s <= t < shot.end_s]
    middle_s = (shot.start_s + shot.end_s) / 2
    return found or [int(on_screen(np.asarray(times_s), [middle_s])[0])]


def nearest(times_s: Sequence[float], among: Sequence[int], time_s: float) -> int:
    """The one of the numbers ``among`` whose time is nearest to ``time_s``, the earlier of two."""
    return min(among, key=lambda i: (abs(times_s[i] - time_s), i))


def visible_share(track: MaskTrack, shot: Shot) -> float:
    """In which share of the shot's tracked frames the person is visible."""
    numbers = inside(track.times_s, shot)
    return sum(track.rles[i] is not None for i in numbers) / len(numbers)


def without(track: MaskTrack, shots: Sequence[Shot], numbers: Collection[int]) -> MaskTrack:
    """The track with no mask in the shots of these numbers."""
    rles = list(track.rles)
    for number in numbers:
        for i in inside(track.times_s, shots[number]):
            rles[i] = None
    return replace(track, rles=tuple(rles))


def filled(track: MaskTrack, part: MaskTrack) -> MaskTrack:
    """The track with the masks of ``part`` at the times of ``part``."""
    new = dict(zip(part.times_s, part.rles, strict=True))
    rles = (new.get(t, rle) for t, rle in zip(track.times_s, track.rles, strict=True))
    return replace(track, rles=tuple(rles))


def is_visible(track: MaskTrack, start_s: float, end_s: float) -> bool:
    """Whether the person has a mask from ``start_s`` to before ``end_s``."""
    pairs = zip(track.times_s, track.rles, strict=True)
    return any(rle is not None and start_s - ROUNDED_S <= t < end_s - ROUNDED_S for t, rle in pairs)


def stretches(shots: Sequence[Shot], with_tracklet: Collection[int]) -> list[Stretch]:
    """Shots with a tracklet, adjacent ones merged."""
    out: list[Stretch] = []
    for i, shot in enumerate(shots):
        if i not in with_tracklet:
            continue
        if out and out[-1].shots[-1] == i - 1:
            out[-1] = Stretch(out[-1].start_s, shot.end_s, (*out[-1].shots, i))
        else:
            out.append(Stretch(shot.start_s, shot.end_s, (i,)))
    return out
