"""What an annotator is shown: a number on each frame (NumPro) and a bright mark on the person (set-of-mark)."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

RED, BRIGHT = (230, 0, 0), (255, 235, 0)
QUALITY = 85
LINE = 2 / 360  # of the height: the outline of a mask
MARK = "1"


def numbered(picture: Image.Image, number: int) -> Image.Image:
    """The picture with ``number`` in red in its lower left corner, an eighth of the height tall, edged in white."""
    size = max(14, picture.height // 8)
    margin = size // 4
    _write(picture, (margin, picture.height - margin), str(number), size, RED, anchor="lb")
    return picture


def marked(picture: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """The picture with a bright outline around ``mask`` [height, width of the picture] and a bright 1 at its middle.

    An empty mask leaves the picture as it is.
    """
    if not mask.any():
        return picture
    pixels = np.array(picture)
    pixels[outline(mask, max(1, round(LINE * picture.height)))] = BRIGHT
    out = Image.fromarray(pixels)
    y, x = middle(mask)
    _write(out, (x, y), MARK, max(14, picture.height // 10), BRIGHT, anchor="mm")
    return out


def outline(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of ``mask`` that lie at most ``width`` steps from its edge; the picture's border is an edge."""
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def middle(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """(row, column) of the pixel of ``mask`` that is nearest to its centre of mass."""
    points = np.argwhere(mask)
    nearest = ((points - points.mean(axis=0)) ** 2).sum(axis=1).argmin()
    return int(points[nearest][0]), int(points[nearest][1])


def resized(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """``mask`` at another size, nearest pixel."""
    rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
    return mask[rows][:, columns]


def picture_size(height: int, width: int, most: int) -> tuple[int, int]:
    """(height, width) of a picture at most ``most`` pixels high, in the same proportions; never larger."""
    scale = min(1.0, most / height)
    return max(2, round(height * scale)), max(2, round(width * scale))


def as_jpeg(picture: Image.Image) -> bytes:
    """JPEG bytes."""
    out = BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def image_part(jpeg: bytes) -> dict[str, Any]:
    """A part of a chat message that holds a picture (OpenAI's ``image_url`` with a data address)."""
    return {
        "type": "image_url",
        "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")},
    }


def _write(
    picture: Image.Image, at: tuple[int, int], text: str, size: int, colour: tuple[int, int, int], *, anchor: str
) -> None:
    """Text with an edge, so that it can be read on any ground."""
    edge = (255, 255, 255) if colour == RED else (0, 0, 0)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text(
        at, text, font=font, fill=colour, anchor=anchor, stroke_width=max(1, size // 16), stroke_fill=edge
    )
