"""ActivityNet Captions (Krishna et al., ICCV 2017): ``{video id: {duration, timestamps, sentences}}``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timeexpert.data.formats.base import Drafts, Format, fields_of, list_of
from timeexpert.data.formats.captions import dense_draft, paired, query_drafts
from timeexpert.data.formats.reading import Row, load_json, members

_FIELDS = ("duration", "timestamps", "sentences")


def _rows(path: Path) -> Iterator[Row]:
    return members(path, load_json(path))


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, *_FIELDS)
    windows, sentences = list_of(value["timestamps"], "timestamps"), list_of(value["sentences"], "sentences")
    pairs = paired(windows, sentences, "sentences")
    fields = {"video": row.key, "video_is_id": True, "duration_s": value["duration"]}
    yield dense_draft(row.key, pairs, **fields)
    yield from query_drafts(row.key, pairs, **fields)


def _matches(first: Any) -> bool:
    member = next(iter(first.values()), None) if isinstance(first, dict) else None
    return isinstance(member, dict) and set(_FIELDS) <= set(member)


FORMAT = Format(
    "activitynet_captions",
    "ActivityNet Captions: {video: {duration, timestamps, sentences}}; dense captions and a query per sentence",
    _rows,
    _matches,
    _drafts,
)
