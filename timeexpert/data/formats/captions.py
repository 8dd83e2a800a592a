"""Drafts that several caption formats share: a whole video's captions, and one query per caption."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from timeexpert.data.formats.base import Draft, RawEvent, RowError, text_of, window_of


def paired(windows: list[Any], captions: list[Any], name: str) -> list[tuple[list[Any], str]]:
    """(window, caption) pairs. Raises :class:`RowError` where counts differ, or either is not what it should be."""
    if len(windows) != len(captions):
        raise RowError("malformed", f"{len(windows)} windows have {len(captions)} captions; each window needs one.")
    return [
        (window_of(window, f"{name}[{i}] window"), text_of(caption, f"{name}[{i}] caption"))
        for i, (window, caption) in enumerate(zip(windows, captions, strict=True))
    ]


def dense_draft(key: str, pairs: list[tuple[list[Any], str]], **fields: Any) -> Draft:
    """All captions of a video as one dense captioning sample; ``fields`` are further fields of :class:`Draft`."""
    return Draft(key=key, task="dense_captioning", events=[RawEvent(w, (), text) for w, text in pairs], **fields)


def query_drafts(key: str, pairs: list[tuple[list[Any], str]], **fields: Any) -> Iterator[Draft]:
    """Each caption of a video as the query of a moment retrieval sample."""
    for i, (window, text) in enumerate(pairs):
        event = RawEvent(window, (), text)
        yield Draft(key=f"{key}:{i}", task="moment_retrieval", query=text, events=[event], at=f".events[{i}]", **fields)
