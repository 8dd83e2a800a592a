"""Charades-STA as published with TALL (Gao et al., ICCV 2017): ``VID start end##query.`` per line."""

from __future__ import annotations

import re
from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Format, RawEvent, RowError
from timeexpert.data.formats.reading import Row, text_lines

_LINE = re.compile(r"(\S+) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)##(.*)", re.ASCII)


def _drafts(row: Row) -> Drafts:
    match = _LINE.fullmatch(row.value)
    if not match:
        raise RowError("malformed", f"{row.value[:200]!r} must look like 'VIDEO start end##query.', times in seconds.")
    video, start, end, query = match.groups()
    if not query.strip():
        raise RowError("no_label", "the query after '##' is empty.")
    yield Draft(
        key=f"{row.key}:{video}",
        video=video,
        video_is_id=True,
        task="moment_retrieval",
        query=query,
        events=[RawEvent([float(start), float(end)], (), query)],
    )


def _matches(first: Any) -> bool:
    return isinstance(first, str) and _LINE.fullmatch(first) is not None


FORMAT = Format(
    "charades_sta",
    "Charades-STA text lines (TALL): 'VID start end##query.'; durations from --durations",
    text_lines,
    _matches,
    _drafts,
)
