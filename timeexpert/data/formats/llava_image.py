"""LLaVA's questions about single pictures: ``{image, conversations}``. A general sample per turn.

Training reads videos: a sample names a one-frame video beside the picture, ``000/1.jpg.mp4`` for ``000/1.jpg``, which
``ffmpeg -i 000/1.jpg -c copy 000/1.jpg.mp4`` makes without a change of its pixels (docs/mixes.md).
"""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import Drafts, Format, RowError, fields_of, text_of
from timeexpert.data.formats.llava import turn_drafts
from timeexpert.data.formats.reading import Row, records


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "conversations")
    if "image" not in value:
        raise RowError("unsupported", "the row has no 'image': rows of text alone have nothing to look at.")
    yield from turn_drafts(row, value, text_of(value["image"], "image") + ".mp4")


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and {"image", "conversations"} <= set(first) and "video" not in first


FORMAT = Format(
    "llava_image",
    "{image, conversations: [{from, value}]}: general questions about pictures, kept as one-frame videos",
    records,
    _matches,
    _drafts,
)
