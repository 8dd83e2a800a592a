"""Where the masks of a draft come from: read when its sample is made, and only then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from timeexpert.data.mask_tracks import MaskTrack


@dataclass(frozen=True)
class MaskSource:
    """``tracks(frame_rate)`` gives the tracks of a sample, one per "[SEG]" of its answer.

    Sets that are folders of frames have no seconds: the i-th of ``num_frames`` stands for ``i / frame_rate``, so the
    video is to be made at that rate. ``frame_rate``: the format's; ``num_frames`` is ``None`` for pictures, and where
    masks have times of their own.
    """

    tracks: Callable[[float], Sequence[MaskTrack]]
    num_frames: int | None = None
    frame_rate: float = 1.0

    def read(self, frame_rate: float | None) -> tuple[tuple[MaskTrack, ...], float | None]:
        """The tracks, checked, and the seconds that the frames last (``None`` where they are not counted);
        ``frame_rate`` in place of the format's. Raises :class:`~timeexpert.data.mask_rle.MaskError`."""
        rate = frame_rate or self.frame_rate
        tracks = tuple(self.tracks(rate))
        for track in tracks:
            track.check()
        return tracks, None if self.num_frames is None else self.num_frames / rate
