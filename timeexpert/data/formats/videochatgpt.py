"""Video-ChatGPT's VideoInstruct100K (Maaz et al., ACL 2024): ``[{q, a, video_id}]``, general questions."""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Format, RawEvent, fields_of, text_of
from timeexpert.data.formats.reading import Row, records


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "q", "a", "video_id")
    yield Draft(
        key=row.key,
        video=value["video_id"],
        video_is_id=True,
        task="general",
        prompt=value["q"],
        events=[RawEvent((), (), text_of(value["a"], "a"))],
    )


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and {"q", "a", "video_id"} <= set(first)


FORMAT = Format(
    "videochatgpt",
    "Video-ChatGPT's VideoInstruct100K: {q, a, video_id}; general questions",
    records,
    _matches,
    _drafts,
)
