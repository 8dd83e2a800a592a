"""TextVR (Wu et al., Pattern Recognition 2025): ``[{path, captions_info: [{caption, caption_info}]}]``.

A general sample per caption: "describe this video" in one of several wordings.
"""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Fault, Format, RawEvent, RowError, fields_of, list_of, text_of
from timeexpert.data.formats.reading import Row, records


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "path", "captions_info")
    for i, item in enumerate(list_of(value["captions_info"], "captions_info")):
        at = f".captions_info[{i}]"
        try:
            item = fields_of(item, "caption")
            info = item.get("caption_info")
            duration = info.get("duration") if isinstance(info, dict) else None
            yield Draft(
                key=f"{row.key}:{i}",
                video=value["path"],
                task="general",
                duration_s=duration or None,  # clips from ActivityNet say 0: unknown
                events=[RawEvent((), (), text_of(item["caption"], "caption"))],
                at=at,
            )
        except RowError as error:
            yield Fault(at, error)


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and {"path", "captions_info"} <= set(first)


FORMAT = Format(
    "textvr",
    "TextVR: {path, captions_info: [{caption}]}; general descriptions, one per caption",
    records,
    _matches,
    _drafts,
)
