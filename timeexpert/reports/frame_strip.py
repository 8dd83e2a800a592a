"""A row of frames with their times, inside a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from timeexpert.data.jpeg_frames import jpeg_frames
from timeexpert.errors import UserError

FRAME_HEIGHT = 90
STRIP_CSS = (
    ".strip { display: flex; flex-wrap: wrap; gap: .4rem; margin-top: .4rem; } .strip figure { margin: 0; } "
    ".strip img { height: 90px; border-radius: 4px; display: block; } .strip figcaption { font-weight: 400; "
    "color: var(--muted); font-size: .8rem; margin: 0; }"
)


def frame_strip(media: Path, video: str, times_s: Sequence[float], labels: Sequence[str] | None = None) -> str:
    """The frames on screen at ``times_s``, each with its time and its label; the reason where the clip is not read."""
    try:
        frames = jpeg_frames(media, video, times_s, FRAME_HEIGHT)
    except (UserError, OSError) as error:
        return f'<p class="muted">{escape(str(error))}</p>'
    out = []
    for number, (time_s, jpeg) in enumerate(frames):
        shown = f"{time_s:.2f} s"
        label = f"{labels[number]}<br>{shown}" if labels is not None else shown
        data = base64.b64encode(jpeg).decode("ascii")
        out.append(
            f'<figure><img alt="frame at {shown}" src="data:image/jpeg;base64,{data}">'
            f"<figcaption>{label}</figcaption></figure>"
        )
    return f'<div class="strip">{"".join(out)}</div>'
