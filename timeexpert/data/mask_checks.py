"""What can be wrong with the masks of a sample beside its video: texts that do not decode, another size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .mask_rle import MaskError
from .mask_tracks import SEG
from .records import Sample


def mask_problems(sample: Sample, info: Mapping[str, Any] | None = None) -> Iterator[str]:
    """A sentence for each rule that is broken, beginning with its field.

    Of each track the first text that does not decode, and with ``info`` (what the decoder says about the video) a size
    that is not that of its frames; of the answer of a segmentation sample a number of [SEG] that is neither none (the
    model's own form is used then) nor that of the tracks. That times lie inside the video is a rule of
    :class:`~.records.Sample`.
    """
    named = sum(event.text.count(SEG) for event in sample.events)
    if sample.task == "referring_segmentation" and named not in (0, len(sample.tracks)):
        yield (
            f"events: the text has {named} {SEG} for {len(sample.tracks)} tracks. Give one for each track, in their "
            "order, or none."
        )
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
