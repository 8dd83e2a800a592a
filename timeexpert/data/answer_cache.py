"""Answers of models, kept as JSON lines under the hash of what was asked: nothing is asked or paid for twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from timeexpert.errors import UserError


class AnswerCache:
    """One file, one writer. A last line that a kill cut short is removed. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._answers = _read(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def get(self, key: str) -> str | None:
        """The answer kept under ``key``."""
        return self._answers.get(key)

    def keep(self, key: str, text: str, **about: Any) -> None:
        """Append an answer; ``about`` is for people who read the file."""
        self._answers[key] = text
        self._file.write(json.dumps({"key": key, "text": text, **about}).encode() + b"\n")
        self._file.flush()


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    out: dict[str, str] = {}
    whole = 0
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                out[str(row["key"])] = str(row["text"])
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}:{number}: not a kept answer. Delete the line or the file.") from None
            whole += len(line)
    os.truncate(path, whole)
    return out
