"""ReVOS (Yan et al., VISA, ECCV 2024): ``meta_expressions_train_.json`` beside ``mask_dict.json``, as MeViS has them.

Its videos come from several sets, and their ids are paths (``TAO/train/...``); their frame rates are not given. 6
frames per second is a choice, as for MeViS: times only have to be those of the video that is made.
"""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import Drafts, Format
from timeexpert.data.formats.expressions import expression_drafts, matches
from timeexpert.data.formats.mevis import expression_rows, named_objects
from timeexpert.data.formats.reading import Row

FRAME_RATE = 6.0


def _drafts(row: Row) -> Drafts:
    yield from expression_drafts(row, named_objects, FRAME_RATE)


def _matches(first: Any) -> bool:
    if not matches(first, "anno_id"):
        return False
    video = next(iter(first["videos"].values()))
    return "type_id" in next(iter(video["expressions"].values())) or {"height", "width"} <= set(video)


FORMAT = Format(
    "revos",
    "ReVOS: meta_expressions_train_.json with mask_dict.json; masks of the objects of an expression, united",
    expression_rows,
    _matches,
    _drafts,
)
