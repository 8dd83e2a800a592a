"""The COCO-like ground truth of TimeChat, TRACE and VTG-LLM: ``{"annotations": [{image_id, caption, ...}]}``.

With ``timestamp`` an annotation is one query and its window (Charades-STA); with ``segments`` it is all captions of
a video (YouCook2), written into one string and divided by '. '.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timeexpert.data.formats.base import (
    Draft,
    Drafts,
    Format,
    RawEvent,
    RowError,
    fields_of,
    list_of,
    text_of,
    window_of,
)
from timeexpert.data.formats.captions import dense_draft, paired
from timeexpert.data.formats.reading import FormatError, Row, load_json


def coco_rows(path: Path, tree: Any) -> Iterator[Row]:
    """A row per annotation. Raises :class:`FormatError` where ``tree`` holds no list of annotations."""
    if not isinstance(tree, dict) or not isinstance(tree.get("annotations"), list):
        raise FormatError(f'{path}: must be {{"annotations": [...]}}. Name the right format, or use auto.')
    for i, value in enumerate(tree["annotations"]):
        yield Row(f"{path.name}.annotations[{i}]", str(i), value)


def coco_drafts(row: Row) -> Drafts:
    """The draft of one annotation, of either kind."""
    value = fields_of(row.value, "image_id")
    fields = {"video": value["image_id"], "duration_s": value.get("duration")}
    if isinstance(value.get("id"), (int, str)):  # what answers of TimeChat and VTG-LLM are named by
        fields["meta"] = {"annotation_id": value["id"]}
    if "segments" in value:
        text = text_of(value.get("pure_cap", value.get("caption")), "pure_cap")
        pairs = paired(list_of(value["segments"], "segments"), text.split(". "), "pure_cap")
        yield dense_draft(row.key, pairs, **fields)
    elif "timestamp" in value:
        query = text_of(value.get("caption"), "caption")
        event = RawEvent(window_of(value["timestamp"], "timestamp"), (), query)
        yield Draft(key=row.key, task="moment_retrieval", query=query, events=[event], **fields)
    else:
        raise RowError("no_label", "the annotation has neither 'segments' nor 'timestamp'.")


def _rows(path: Path) -> Iterator[Row]:
    return coco_rows(path, load_json(path))


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and isinstance(first.get("annotations"), list)


FORMAT = Format(
    "caption_coco",
    "*.caption_coco_format.json of TimeChat, TRACE, VTG-LLM: a query with a window, or all captions of a video",
    _rows,
    _matches,
    coco_drafts,
)
