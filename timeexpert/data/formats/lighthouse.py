"""Other data sets in QVHighlights' style, as released with Lighthouse: a JSON line per query, windows only."""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import Drafts, Format
from timeexpert.data.formats.qvhighlights import window_draft
from timeexpert.data.formats.reading import Row, json_lines


def _drafts(row: Row) -> Drafts:
    yield window_draft(row)


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and {"qid", "query", "vid", "relevant_windows"} <= set(first)


FORMAT = Format(
    "lighthouse",
    "JSON lines of Lighthouse (Charades, ActivityNet, TACoS, CASTELLA, UnAV-100): moments",
    json_lines,
    _matches,
    _drafts,
)
