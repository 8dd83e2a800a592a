"""A JSON list or object read member by member, so that a file of any size takes the memory of its largest member."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from timeexpert.data.records import SampleError, json_limits

CHUNK = 2**20  # characters
MAX_MEMBER = 2**26  # characters of one member: what is longer is no list of rows


class BrokenJsonError(ValueError):
    """The file stops being JSON, or JSON that can be read, in ``line``."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


class _Text:
    """The unread part of a file, of which only a window is in memory."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.at, self.lines, self.ended = file, "", 0, 1, False
        self.decode = json.JSONDecoder().raw_decode

    def more(self) -> bool:
        """Read on (as much as is unread already: a long member costs no more than twice its size)."""
        read = "" if self.ended else self.file.read(max(CHUNK, len(self.text) - self.at))
        if not read:
            self.ended = True
            return False
        self.lines += self.text.count("\n", 0, self.at)
        self.text, self.at = self.text[self.at :] + read, 0
        return True

    def next(self) -> str:
        """The next character that is not blank, unread; '' at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def skip(self, expected: str) -> str:
        """Read one of the characters in ``expected``. Raises ``ValueError``."""
        found = self.next()
        if not found or found not in expected:
            raise ValueError(f"{found or 'the end of the file'!r} where one of {' '.join(expected)} is due")
        self.at += 1
        return found

    def value(self) -> Any:
        """Read a JSON value. Raises ``ValueError``, :class:`SampleError` at a limit of reading."""
        self.next()
        while True:
            try:
                with json_limits():
                    value, end = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if len(self.text) - self.at > MAX_MEMBER:
                    raise ValueError(f"a member of more than {MAX_MEMBER} characters, or {error.msg}") from None
                if not self.more():
                    raise ValueError(error.msg) from None
                continue
            if len(self.text) - end > 2 or not self.more():  # a number may go on behind the window: 1e+
                self.at = end
                return value


def json_members(path: Path) -> Iterator[tuple[str, Any]]:
    """(index or name, value) of each member of the list or object in ``path``.

    Raises :class:`BrokenJsonError` or ``UnicodeDecodeError`` where the file stops being JSON, after the members before
    that place.
    """
    with open(path, encoding="utf-8-sig") as file:
        text = _Text(file)
        try:
            yield from _members(text)
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            limit = isinstance(error, SampleError)
            says = f"{error} Correct it." if limit else f"not JSON: {error}. Is the file complete?"
            raise BrokenJsonError(text.lines + text.text.count("\n", 0, text.at), says) from None


def _members(text: _Text) -> Iterator[tuple[str, Any]]:
    is_list = text.skip("[{") == "["
    end, count = "]" if is_list else "}", 0
    if text.next() == end:
        text.skip(end)
    else:
        while True:
            key = str(count) if is_list else text.value()
            if not isinstance(key, str):
                raise ValueError(f"the name of a member is {key!r}, not text")
            if not is_list:
                text.skip(":")
            yield key, text.value()
            count += 1
            if text.skip("," + end) == end:
                break
    if text.next():
        raise ValueError(f"something follows the closing {end}")
