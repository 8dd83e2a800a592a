"""Lengths of videos from a file of their own, for formats that have none."""

from __future__ import annotations

from pathlib import Path

from timeexpert.data.formats.base import RowError, number
from timeexpert.data.formats.reading import FormatError, load_json


def read_durations(path: str | Path) -> dict[str, float]:
    """Seconds per video id from JSON: ``{id: seconds}`` or ``{id: {"duration": seconds, ...}}``."""
    path = Path(path)
    tree = load_json(path)
    if not isinstance(tree, dict):
        raise FormatError(f"{path}: durations must be an object of video id and seconds, not {type(tree).__name__}.")
    durations = {}
    for name, value in tree.items():
        value = value.get("duration") if isinstance(value, dict) else value
        try:
            durations[name] = number(value, "duration")
        except RowError as error:
            raise FormatError(f"{path}: {name!r}: {error.reason}") from None
    return durations
