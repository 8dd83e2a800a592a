"""The plainest way to write down when things happen: a JSON line per clip, ``{video, duration, events}``."""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import Drafts, Format, fields_of, list_of
from timeexpert.data.formats.captions import dense_draft, paired, query_drafts
from timeexpert.data.formats.reading import Row, records


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "video", "events")
    events = [fields_of(event, "start", "end", "caption") for event in list_of(value["events"], "events")]
    pairs = paired([[e["start"], e["end"]] for e in events], [e["caption"] for e in events], "events")
    fields = {"video": value["video"], "duration_s": value.get("duration")}
    yield dense_draft(row.key, pairs, **fields)
    yield from query_drafts(row.key, pairs, **fields)


def _matches(first: Any) -> bool:
    if not isinstance(first, dict) or "video" not in first or not isinstance(first.get("events"), list):
        return False
    return all(isinstance(event, dict) and {"start", "end", "caption"} <= set(event) for event in first["events"])


FORMAT = Format(
    "timed_clips",
    "JSON lines {video, duration, events: [{start, end, caption}]}: dense captions and a query per event",
    records,
    _matches,
    _drafts,
)
