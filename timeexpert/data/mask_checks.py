"""What can be wrong with the masks of a sample beside its video: texts that do not decode, another size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .mask_rle import MaskError
from .records import Sample


def mask_problems(sample: Sample, info: Mapping[str, Any] | None = None) -> Iterator[str]:
    """A sentence per track that breaks a rule, beginning with its field: the first text of it that does not decode,
    and with ``info`` (what the decoder says about the video) a size that is not that of its frames.

    That times lie inside the video is a rule of :class:`~.records.Sample`.
    """
    for i, track in enumerate(sample.tracks):
        try:
            track.check()
        except MaskError as error:
            yield f"tracks[{i}].{error}"
        if info is None or "height" not in info or "width" not in info:  # features of a clip have no frames
            continue
        frame = (info["height"], info["width"])
        if track.size != frame:
            yield (
                f"tracks[{i}].size ({list(track.size)}) is not that of the video's frames as decoded ({list(frame)}): "
                "[height, width] after rotation. Give the video that the masks were drawn on, or masks of its size "
                "(data cache keeps the size with --keep-size)."
            )
