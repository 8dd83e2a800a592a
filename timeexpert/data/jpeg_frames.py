"""Small JPEG pictures of a clip at given times: for pages that people read and for models behind an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from .media import resolve_media

MAX_PROPORTION = 4  # width to height: a picture of one row of pixels would otherwise be endless
QUALITY = 80


def jpeg_frames(media: Path, video: str, times_s: Sequence[float], height: int) -> list[tuple[float, bytes]]:
    """(exact time in seconds, JPEG bytes) of the frame on screen at each time, ``height`` pixels high.

    Raises ``UserError`` with the clip's name where it cannot be read.
    """
    from PIL import Image

    from .video import Video

    with Video.open(resolve_media(media, video), name=video) as opened:
        info = opened.info
        width = max(2, round(height * info.width * info.pixel_aspect / info.height))
        frames, shown_s = opened.frames_at(
            [max(0.0, t) for t in times_s], (height, min(width, MAX_PROPORTION * height))
        )
    out = []
    for frame, time_s in zip(frames, shown_s, strict=True):
        jpeg = BytesIO()
        Image.fromarray(frame).save(jpeg, "JPEG", quality=QUALITY)
        out.append((float(time_s), jpeg.getvalue()))
    return out
