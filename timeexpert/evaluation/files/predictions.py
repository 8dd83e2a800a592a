"""Files of predictions: their records, and the shape that these have. A file is told by its content.

Nothing in it is trusted: any value may stand anywhere, and only a file that is not JSON at all, or of no known shape
(:mod:`.shapes`), is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timeexpert.data.formats.reading import line_past_limits
from timeexpert.data.records import SampleError, json_limits
from timeexpert.errors import did_you_mean

from ..errors import EvaluationError
from ..records import Told
from .shapes import FORMATS, Row

MAX_BYTES = 2**31
ID_FIELDS = ("id", "qid", "question_id", "vname", "video", "vid")


@dataclass(frozen=True)
class Predictions:
    """The answers of one file. ``bad_rows``: places that name no question, so that nothing can be counted for one."""

    path: Path
    format: str
    keys: tuple[str, ...]
    rows: list[Row]
    bad_rows: list[str] = field(default_factory=list)

    @property
    def repeated(self) -> int:
        """Answers that name the same question as an earlier one by every key they have."""
        return len(self.rows) - len({tuple(sorted(keys.items())) for keys, _ in self.rows})

    def by(self, key: str) -> dict[str, Told]:
        """Answers by one kind of key; of several with the same key the first counts."""
        found: dict[str, Told] = {}
        for keys, told in self.rows:
            if key in keys:
                found.setdefault(keys[key], told)
        return found


def read_predictions(path: Path, format: str = "auto") -> Predictions:
    """Read a file of predictions. Raises :class:`EvaluationError` where it is unreadable or of no known shape."""
    members, bad = _members(path)
    if format == "auto":
        chosen = next((f for f in FORMATS.values() if any(f.matches(m) for m in members[:20])), None)
        if chosen is None:
            if not members and not bad:
                chosen = FORMATS["ours"]  # an empty file: everything is missing
            else:
                shown = f" Its first record is {members[0]!r:.120}." if members else f" {bad[0]}."
                raise EvaluationError(
                    f"{path}: no known shape of predictions.{shown} Name it: --format {', '.join(FORMATS)}."
                )
    elif format in FORMATS:
        chosen = FORMATS[format]
    else:
        hint = did_you_mean(format, FORMATS)
        raise EvaluationError(f"--format ({format!r}) must be auto or one of {', '.join(FORMATS)}.{hint}")
    rows: list[Row] = []
    for number, member in enumerate(members):
        before = len(rows)
        rows += chosen.read(member, path.name)
        if len(rows) == before:
            bad.append(f"{path.name}: record {number + 1} names no question: {member!r:.80}")
    return Predictions(path, chosen.name, chosen.keys, rows, bad)


def _members(path: Path) -> tuple[list[Any], list[str]]:
    """The records of a file: lines, items of a list, or (name, value) of an object; and lines that are not JSON."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise EvaluationError(f"{path}: more than {MAX_BYTES} bytes. Split the file.")
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}. Give a file of predictions.") from None
    try:
        with json_limits():
            whole = json.loads(text)
    except json.JSONDecodeError:
        return _lines(path, text)
    except SampleError as error:
        first, _, rest = text.strip().partition("\n")
        if rest and first.rstrip().endswith("}"):  # a row of its own
            return _lines(path, text)
        raise EvaluationError(f"{path}:{line_past_limits(text)}: {error} Correct it.") from None
    if isinstance(whole, list):
        return whole, []
    if isinstance(whole, dict) and _is_record(whole):
        return [whole], []
    if isinstance(whole, dict):
        inner = whole.get("results")
        return list((inner if isinstance(inner, dict) else whole).items()), []
    raise EvaluationError(f"{path}: holds one {type(whole).__name__}; predictions are lines, a list or an object.")


def _is_record(value: dict[str, Any]) -> bool:
    """One line of a JSON lines file, and not an object by question or video."""
    return any(isinstance(value.get(name), (str, int)) for name in ID_FIELDS)


def _lines(path: Path, text: str) -> tuple[list[Any], list[str]]:
    members: list[Any] = []
    bad: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if "##" in line and not line.lstrip().startswith("{"):
            members.append(line.strip())
            continue
        try:
            with json_limits():
                members.append(json.loads(line))
        except json.JSONDecodeError:
            bad.append(f"{path.name}:{number} is not JSON")
        except SampleError as error:
            bad.append(f"{path.name}:{number} is {str(error).rstrip('.')}")
    if not members and bad:
        raise EvaluationError(f"{path}: not JSON, JSON lines or Charades-STA lines (line 1 is {text[:60]!r}).")
    return members, bad
