"""YouCook2 (Zhou et al., AAAI 2018): the official youcookii layout, or TimeChat's caption_coco_format file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timeexpert.data.formats.base import Drafts, Format, fields_of, list_of
from timeexpert.data.formats.caption_coco import coco_drafts, coco_rows
from timeexpert.data.formats.captions import dense_draft, paired
from timeexpert.data.formats.reading import Row, load_json, members


def _rows(path: Path) -> Iterator[Row]:
    tree = load_json(path)
    if isinstance(tree, dict) and "database" in tree:
        return members(path, tree["database"], ".database")
    return coco_rows(path, tree)


def _drafts(row: Row) -> Drafts:
    if isinstance(row.value, dict) and "image_id" in row.value:
        yield from coco_drafts(row)
        return
    value = fields_of(row.value, "duration", "annotations")
    steps = [fields_of(step, "segment", "sentence") for step in list_of(value["annotations"], "annotations")]
    pairs = paired([step["segment"] for step in steps], [step["sentence"] for step in steps], "annotations")
    meta = {"subset": value["subset"]} if "subset" in value else {}
    yield dense_draft(row.key, pairs, video=row.key, video_is_id=True, duration_s=value["duration"], meta=meta)


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and isinstance(first.get("database"), dict)


FORMAT = Format(
    "youcook2",
    "YouCook2: official {database: {video: {duration, annotations}}}, or TimeChat's file; dense captions",
    _rows,
    _matches,
    _drafts,
)
