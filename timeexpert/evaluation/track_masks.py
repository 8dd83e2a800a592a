"""Tracks on other frames than their own: at other times, and at another size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from timeexpert.data.mask_tracks import MaskTrack


def places(track: MaskTrack, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each of ``times_s`` [T] the place of the track's mask then, -1 where it has none: [T].

    The mask of the nearest time is shown (the earlier one of two), and none more than half the track's usual step
    outside its times.
    """
    own_s = np.array(track.times_s)
    half_s = usual_step_s(own_s) / 2
    after = np.searchsorted(own_s, times_s).clip(0, len(own_s) - 1)
    before = (after - 1).clip(0)
    nearest = np.where(times_s - own_s[before] <= np.abs(own_s[after] - times_s), before, after)
    return np.where((times_s >= own_s[0] - half_s) & (times_s <= own_s[-1] + half_s), nearest, -1)


def scaled(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """``mask`` at ``size`` (height, width): each pixel is the one nearest to its centre."""
    rows, columns = (
        ((np.arange(want) + 0.5) * have / want).astype(int) for want, have in zip(size, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def shown_at(tracks: Sequence[MaskTrack], times_s: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """What the tracks together show at ``times_s`` [T] (:func:`places`) at ``size``: bool [T, height, width].

    Raises :class:`MaskError` where a run-length text does not decode.
    """
    shown = np.zeros((len(times_s), *size), dtype=bool)
    for track in tracks:
        place = places(track, times_s)
        for i in np.unique(place):
            if i >= 0 and track.rles[i] is not None:
                shown[place == i] |= scaled(track.mask(int(i)), size)
    return shown


def usual_step_s(times_s: NDArray[np.float64]) -> float:
    """The median distance of the times; 1 s where there is one time alone."""
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1.0
