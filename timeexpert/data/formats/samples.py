"""Our own samples as JSON lines: checked, otherwise passed through."""

from __future__ import annotations

from typing import Any

from timeexpert.data.formats.base import Drafts, Format
from timeexpert.data.formats.reading import Row, json_lines
from timeexpert.data.records import Sample


def _drafts(row: Row) -> Drafts:
    yield Sample.from_json(row.value)


def _matches(first: Any) -> bool:
    return isinstance(first, dict) and {"id", "video", "task", "prompt", "events"} <= set(first)


FORMAT = Format("samples", "TimeExpert's own samples: checked and passed through", json_lines, _matches, _drafts)
