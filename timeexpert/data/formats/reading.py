"""Reading annotation files row by row, with bounded sizes: text lines, JSON lines, JSON lists and objects."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from timeexpert.data.formats.streaming import BrokenJsonError, json_members
from timeexpert.data.records import SampleError, json_limits, parse_json
from timeexpert.errors import UserError

MAX_LINE_BYTES = 16 * 2**20
MAX_JSON_BYTES = 2**30
PICKLE_TO_JSON = (
    'python -c "import json, pickle, sys; '
    "json.dump(pickle.load(open(sys.argv[1], 'rb'), encoding='utf-8'), open(sys.argv[2], 'w'))\""
)


class FormatError(UserError):
    """An annotation file that cannot be read as the format it was said to be."""


@dataclass(frozen=True)
class Row:
    """One record of a file. ``where`` is its place (``file.jsonl:12`` or ``file.json[11]``), ``key`` tells it
    from the file's other rows; ``problem`` says why ``value`` (then raw text) could not be read; ``beside``: what reads
    the files that belong to it (masks)."""

    where: str
    key: str
    value: Any
    problem: str = ""
    beside: Any = None


def text_lines(path: Path) -> Iterator[Row]:
    """A row per non-empty line. Lines that are too long or not UTF-8 become rows with a problem."""
    check_file(path)
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            where, key = f"{path.name}:{number}", str(number)
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                start = line[:200].decode("utf-8", "backslashreplace")
                yield Row(where, key, start, f"the line is longer than {MAX_LINE_BYTES} bytes (its start is kept here)")
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield Row(where, key, line.decode("utf-8", "backslashreplace").strip(), f"not UTF-8: {error.reason}")
                continue
            if text:
                yield Row(where, key, text)


def json_lines(path: Path) -> Iterator[Row]:
    """A row per line of a JSON lines file; a line that is not JSON becomes a row with a problem."""
    for row in text_lines(path):
        if row.problem:
            yield row
            continue
        try:
            yield Row(row.where, row.key, parse_json(row.value))
        except SampleError as error:
            yield Row(row.where, row.key, row.value, str(error))


def records(path: Path) -> Iterator[Row]:
    """A row per item of a JSON list, or per line of a JSON lines file, whichever ``path`` is."""
    check_file(path)
    if _head(path)[:1] != "[":
        yield from json_lines(path)
        return
    for key, value in streamed(path):
        yield Row(f"{path.name}[{key}]", key, value)


def streamed(path: Path) -> Iterator[tuple[str, Any]]:
    """(index or name, value) of the members of a JSON list or object, in the memory of one. Raises `FormatError`."""
    check_file(path)
    try:
        yield from json_members(path)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8: {error.reason}. Save the file as UTF-8.") from None
    except BrokenJsonError as error:
        raise FormatError(f"{path}:{error.line}: {error}") from None


def csv_rows(path: Path) -> Iterator[Row]:
    """A row, an object by column, per record of a CSV file whose first line names the columns."""
    check_file(path)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(iter(partial(file.readline, MAX_LINE_BYTES), ""), strict=True)
        try:
            columns = next(reader, [])
            while True:
                where, problem = f"{path.name}:{reader.line_num + 1}", ""
                values: list[str] = []
                try:
                    values = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    problem = f"not CSV: {error}"
                if not problem and len(values) != len(columns):
                    problem = f"{len(values)} fields; the first line names {len(columns)}"
                value = values if problem else dict(zip(columns, values, strict=True))
                yield Row(where, str(reader.line_num), value, problem)
        except UnicodeDecodeError as error:
            raise FormatError(f"{path}: not UTF-8: {error.reason}. Save the file as UTF-8.") from None
        except csv.Error as error:
            raise FormatError(f"{path}:1: not CSV: {error}.") from None


def members(path: Path, tree: Any, where: str = "") -> Iterator[Row]:
    """A row per member of the JSON object ``tree`` of ``path``, keyed by its name."""
    if not isinstance(tree, dict):
        raise FormatError(f"{path}{where} must be an object with one member per video, not {type(tree).__name__}.")
    for name, value in tree.items():
        yield Row(f"{path.name}{where}[{name!r}]", name, value)


def load_json(path: Path) -> Any:
    """The whole of a JSON file. Raises :class:`FormatError` with line and column.

    NaN and large numbers pass here, so that they cost one row and not the file: rows are checked one by one later.
    """
    check_file(path)
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise FormatError(
            f"{path}: {size} bytes is more than one JSON file may have ({MAX_JSON_BYTES}). Split it, or write one "
            "record per line (.jsonl), which is read row by row."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        with json_limits():
            return json.loads(text)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 at byte {error.start}. Save the file as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise FormatError(f"{path}:{error.lineno}: not JSON: {error}. Is the file complete?") from None
    except SampleError as error:
        raise FormatError(f"{path}:{line_past_limits(text)}: {error} Correct it.") from None


def line_past_limits(text: str) -> int:
    """The line of JSON ``text`` that holds the integer that is too long, or else the deepest value."""
    long = re.search(rf"\d{{{sys.get_int_max_str_digits() + 1}}}", text)
    if long is not None:
        return text.count("\n", 0, long.start()) + 1
    depth, deepest, place = 0, 0, 0
    for mark in re.finditer(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', text):
        depth += (mark[0] in ("[", "{")) - (mark[0] in ("]", "}"))
        if depth > deepest:
            deepest, place = depth, mark.start()
    return text.count("\n", 0, place) + 1


def peek(path: Path) -> Any:
    """What a format is guessed from: the first item of a list, the object of a file or of its first line, or text.

    ``None`` where there is nothing.
    """
    check_file(path)
    head = _head(path)[:1]
    if head == "[":
        return next((value for _, value in streamed(path)), None)
    first = next(text_lines(path), None)
    if first is None:
        return None
    if head != "{":
        return first.value
    try:
        return parse_json(first.value)
    except SampleError as error:
        try:
            return load_json(path)
        except FormatError:
            if first.value.rstrip().endswith("}"):  # a row of its own: what is wrong is in it, not in the next one
                raise FormatError(f"{path.parent / first.where}: {str(error).rstrip('.')}. Correct the row.") from None
            raise


def check_file(path: Path) -> None:
    """Raises :class:`FormatError` where ``path`` is not a file, or is a pickle."""
    if not path.is_file():
        raise FormatError(f"{path}: no such file. Give the path of an annotation file.")
    with open(path, "rb") as file:
        pickled = file.read(1) == b"\x80" or path.suffix in (".p", ".pkl", ".pickle")
    if pickled:
        raise FormatError(
            f"{path}: a pickle, which can run any program when it is read, and is not read here. Turn one that you "
            f"trust into JSON: {PICKLE_TO_JSON} '{path.name}' '{path.with_suffix('.json').name}'"
        )


def _head(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(4096).decode("utf-8-sig", "replace").lstrip()
