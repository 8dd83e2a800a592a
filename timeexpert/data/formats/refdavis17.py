"""Ref-DAVIS17 (Khoreva et al., ACCV 2018), in the layout of Refer-YouTube-VOS that ReferFormer's script gives it.

``meta_expressions/valid/meta_expressions.json`` beside ``valid/Annotations/VIDEO/FRAME.png``; 24 frames per second. The
four expressions of an object (two annotators, first frame and full video) are a sample each.
"""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import Drafts, Format
from timeexpert.data.formats.expressions import expression_drafts
from timeexpert.data.formats.reading import Row
from timeexpert.data.formats.ref_youtube_vos import labelled_object, labelled_rows

FRAME_RATE = 24.0


def _drafts(row: Row) -> Drafts:
    yield from expression_drafts(row, labelled_object, FRAME_RATE)


def _matches(first: Any) -> bool:
    return False  # nothing tells its files from Refer-YouTube-VOS's but the frame rate: it has to be named


FORMAT = Format(
    "refdavis17",
    "Ref-DAVIS17 in the layout of Refer-YouTube-VOS, at 24 frames per second; not guessed, name it",
    labelled_rows,
    _matches,
    _drafts,
)
