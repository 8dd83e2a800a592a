"""Sampled frames of a clip, or features in their place; from memory where the clip is small enough to be kept there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from timeexpert.data.batch import Frames
from timeexpert.data.features import FeatureFile
from timeexpert.data.media import is_features
from timeexpert.data.sampling import Clip, Mode, frames_from_arrays, sample_frames, sample_times
from timeexpert.data.video import Video

Source = str | Path | bytes


class FrameReader:
    """Reads ``num_frames`` frames per clip at one square size, in pixels.

    ``cache_bytes``: memory for decoded clips, per process; with and without it the frames are the same.
    """

    def __init__(self, size: int, cache_bytes: int = 0) -> None:
        self.size = size
        self.cache_bytes = cache_bytes
        self.used_bytes = 0
        self._kept: dict[str, tuple[Clip, float]] = {}

    def read(
        self,
        key: str,
        source: Callable[[], tuple[Source, str]],
        num_frames: int,
        mode: Mode = "uniform",
        rng: np.random.Generator | None = None,
    ) -> tuple[Frames, np.ndarray, float]:
        """(frames [n], exact times in seconds [n], duration in seconds) of one clip.

        Frames are uint8 [n, size, size, 3], or where the clip's name says that it holds features, those [n, P, C].

        ``source()`` gives the clip's bytes or path and its name; it is called only when the clip must be
        decoded. ``key`` names the clip in the cache (its checksum). Raises ``VideoError``, ``FeaturesError``.
        """
        square = (self.size, self.size)
        if key in self._kept:
            clip, duration_s = self._kept[key]
            return (*_sample(clip, duration_s, num_frames, mode, rng), duration_s)
        data, name = source()
        if is_features(name):
            file = FeatureFile(data, name)
            return (*file.sample(num_frames, mode, rng), file.duration_s)
        with Video.open(data, name=name) as video:
            duration_s = video.info.duration_s
            size = video.info.num_frames * (self.size * self.size * 3 + 8)
            if self.used_bytes + size > self.cache_bytes:
                frames, times_s = sample_frames(video, num_frames, mode, rng, square)
                return frames, times_s, duration_s
            clip = video.all_frames(square)
        # never evicted: each clip is needed once per epoch, so evicting would throw it out before its next use
        self._kept[key] = clip, duration_s
        self.used_bytes += size
        return (*_sample(clip, duration_s, num_frames, mode, rng), duration_s)


def _sample(clip: Clip, duration_s: float, num_frames: int, mode: Mode, rng: np.random.Generator | None) -> Clip:
    frames, shown_s = frames_from_arrays(*clip, sample_times(duration_s, num_frames, mode, rng))
    first = np.unique(shown_s, return_index=True)[1]
    return frames[first], shown_s[first]
