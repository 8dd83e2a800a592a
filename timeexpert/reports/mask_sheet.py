"""A picture per video of where its masks lie: some frames side by side, each object in a colour of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.video import Video

from .errors import ReportError
from .palette import expert_colour

FRAMES, HEIGHT, CAPTION = 8, 160, 14  # how many frames; pixels of one, and of its time below it
SHARE = 0.45  # of the colour, inside a mask


def mask_sheet(video: Path, tracks: Sequence[MaskTrack], out: Path) -> None:
    """Write ``out`` (PNG): frames on screen at annotated times, evenly picked, with the masks of ``tracks`` there.

    Raises :class:`ReportError` where the masks have another size than the frames or there are none, ``VideoError``
    where the video cannot be read, ``MaskError`` where a mask does not decode.
    """
    if not tracks:
        raise ReportError(f"{video}: no track of masks to draw.")
    annotated = sorted({time_s for track in tracks for time_s in track.times_s})
    picked = np.linspace(0, len(annotated) - 1, min(FRAMES, len(annotated))).round().astype(int)
    with Video.open(video) as opened:
        frames, times_s = opened.frames_at([min(annotated[i], opened.info.duration_s) for i in picked])
    for i, track in enumerate(tracks):
        if track.size != frames.shape[1:3]:
            raise ReportError(
                f"{video}: tracks[{i}].size ({list(track.size)}) is not that of the frames ({list(frames.shape[1:3])})."
            )
    cells = []
    for frame, time_s in zip(frames, times_s, strict=True):
        for number, track in enumerate(tracks):
            frame = marked(frame, track.at([float(time_s)]).mask(0), expert_colour(number))
        cells.append(_cell(frame, f"{time_s:.2f} s"))
    Image.fromarray(np.concatenate(cells, axis=1)).save(out)


def marked(frame: NDArray[np.uint8], mask: NDArray[np.bool_], colour: str, edge: int = 1) -> NDArray[np.uint8]:
    """``frame`` [H, W, 3] with ``colour`` (``#rrggbb``) mixed into ``mask`` [H, W] and covering its ``edge`` pixels."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float32)
    out = frame.astype(np.float32)
    out[mask] = (1 - SHARE) * out[mask] + SHARE * rgb
    inner = mask
    for _ in range(edge):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    out[mask & ~inner] = rgb
    return out.astype(np.uint8)


def _cell(frame: NDArray[np.uint8], caption: str) -> NDArray[np.uint8]:
    width = max(1, round(frame.shape[1] * HEIGHT / frame.shape[0]))
    canvas = Image.new("RGB", (width + 4, HEIGHT + CAPTION), "white")
    canvas.paste(Image.fromarray(frame).resize((width, HEIGHT), Image.Resampling.NEAREST), (2, 0))
    ImageDraw.Draw(canvas).text((4, HEIGHT + 1), caption, fill="black")
    return np.asarray(canvas)
