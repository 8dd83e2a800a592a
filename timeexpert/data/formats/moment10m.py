"""Moment-10M (Qian et al., Momentor, ICML 2024): an object by video.

Two kinds of members: event sequences ``{captions, timestamps}`` (GESM), and questions by type, ``{type: [{variables,
conversations: [{User, Assistant}]}]}``, whose texts hold placeholders like ``{moment}`` for the variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timeexpert.data.formats.base import (
    Draft,
    Drafts,
    Fault,
    Format,
    RawEvent,
    RowError,
    fields_of,
    list_of,
    quoted,
    text_of,
    window_of,
)
from timeexpert.data.formats.captions import dense_draft, paired, query_drafts
from timeexpert.data.formats.reading import Row, streamed

_TIMES = ("moment", "SOURCE_CLIP")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def _rows(path: Path) -> Iterator[Row]:
    for name, value in streamed(path):
        yield Row(f"{path.name}[{name!r}]", name, value)


def _drafts(row: Row) -> Drafts:
    value = fields_of(row.value)
    if "timestamps" in value:
        windows, captions = (list_of(fields_of(value, name)[name], name) for name in ("timestamps", "captions"))
        pairs = paired(windows, captions, "captions")
        yield dense_draft(row.key, pairs, video=row.key, video_is_id=True)
        yield from query_drafts(row.key, pairs, video=row.key, video_is_id=True)
        return
    for kind, items in value.items():
        for i, item in enumerate(list_of(items, str(kind))):
            at = f"[{kind!r}][{i}]"
            try:
                yield from _question_drafts(row.key, str(kind), i, item, at)
            except RowError as error:
                yield Fault(at, error)


def _question_drafts(video: str, kind: str, i: int, item: Any, at: str) -> Iterator[Draft]:
    item = fields_of(item, "conversations", "variables")
    variables, turns = fields_of(item["variables"]), item["conversations"]
    if "click_position" in variables:
        raise RowError("unsupported", "the question points at a place in the picture (click_position).")
    for j, turn in enumerate([turns] if isinstance(turns, dict) else list_of(turns, "conversations")):
        turn = fields_of(turn, "User", "Assistant")
        asked, answer = text_of(turn["User"], "User"), text_of(turn["Assistant"], "Assistant")
        prompt = _filled(asked, variables)
        meta: dict[str, Any] = {"type": kind}
        meta |= {name: item[name] for name in ("match_score", "clip_similarity") if name in item}
        if "moment" in _PLACEHOLDER.findall(answer):
            content = variables.get("content")
            query = content.strip() if isinstance(content, str) else quoted(prompt)
            events = [RawEvent(window, (), query) for window in _windows(variables, "moment")]
            task = "moment_retrieval"
        else:
            task, events = "general", [RawEvent((), (), _filled(answer, variables))]
        yield Draft(
            key=f"{video}:{kind}:{i}:{j}", video=video, video_is_id=True, task=task, prompt=prompt, events=events,
            at=f"{at}.conversations[{j}]", meta=meta,
        )  # fmt: skip


def _windows(variables: dict[str, Any], name: str) -> list[list[Any]]:
    """One window or several, as a list."""
    value = list_of(fields_of(variables, name)[name], name)
    return [
        window_of(w, f"{name}[{k}]") for k, w in enumerate(value if value and isinstance(value[0], list) else [value])
    ]


def _filled(text: str, variables: dict[str, Any]) -> str:
    """``text`` with its placeholders replaced; times as ``1.5 - 3.0 seconds``. Raises :class:`RowError`."""

    def put(match: re.Match[str]) -> str:
        name = match[1]
        if name in _TIMES:
            return " and ".join(f"{start} - {end} seconds" for start, end in _windows(variables, name))
        return text_of(fields_of(variables, name)[name], name)

    return _PLACEHOLDER.sub(put, text)


def _matches(first: Any) -> bool:
    member = next(iter(first.values()), None) if isinstance(first, dict) else None
    if not isinstance(member, dict):
        return False
    if {"captions", "timestamps"} <= set(member):
        return True
    items = next(iter(member.values()), None)
    item = items[0] if isinstance(items, list) and items else None
    return isinstance(item, dict) and {"conversations", "variables"} <= set(item)


FORMAT = Format(
    "moment10m",
    "Moment-10M by video: {captions, timestamps}, or questions {type: [{variables, conversations}]} with {moment}",
    _rows,
    _matches,
    _drafts,
)
