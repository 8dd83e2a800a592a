"""General video question answering in LLaVA's form: ``{video, conversations}``. A sample per turn.

Each turn stands alone: later questions do not see earlier ones. ``meta.turn`` and ``meta.turns`` tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Format, RawEvent, fields_of
from timeexpert.data.formats.conversations import turns, video_of
from timeexpert.data.formats.reading import Row, records


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value, "conversations")
    yield from turn_drafts(row, value, video_of(value))


def turn_drafts(row: Row, value: dict[str, Any], video: str) -> Iterator[Draft]:
    """A general draft about ``video`` per turn of ``value["conversations"]``."""
    pairs = turns(value["conversations"])
    for i, (question, answer) in enumerate(pairs):
        yield Draft(
            key=f"{row.key}:{i}",
            video=video,
            task="general",
            prompt=question,
            duration_s=value.get("duration"),
            events=[RawEvent((), (), answer)],
            at=f".conversations[{2 * i}]",
            meta={"turn": i, "turns": len(pairs)},
        )


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and isinstance(first.get("conversations"), list)


FORMAT = Format("llava", "{video, conversations: [{from, value}]}: general questions", records, _matches, _drafts)
