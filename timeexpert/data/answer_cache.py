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
        self._append({"key": key, "text": text, **about})

    def drop(self, key: str) -> None:
        """Keep nothing under ``key`` any more."""
        if self._answers.pop(key, None) is not None:
            self._append({"key": key, "text": None})

    def _append(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
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
                key, text = str(row["key"]), row["text"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}:{number}: not a kept answer. Delete the line or the file.") from None
            if text is None:
                out.pop(key, None)
            else:
                out[key] = str(text)
            whole += len(line)
    os.truncate(path, whole)
    return out
