"""Reading and writing Sample lines in runs that must lose none: bad lines and repeated ids become rows of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from timeexpert.errors import UserError

from .records import Sample, SampleError, read_samples


def require_samples(samples: Path, error: type[UserError]) -> None:
    """Raise ``error`` unless ``samples`` is a file."""
    if not samples.is_file():
        raise error(f"{samples}: no such file. Give a Sample .jsonl, as timeexpert data convert writes it.")


def good_samples(samples: Path) -> Iterator[Sample]:
    """The lines that are samples."""
    return (sample for _, sample in read_samples(samples) if isinstance(sample, Sample))


def unique_samples(samples: Path, bad: Callable[[dict[str, Any]], None]) -> Iterator[tuple[int, Sample]]:
    """(line number, sample) of good lines with an id of their own; ``bad`` gets a row for each other line."""
    seen: dict[bytes, int] = {}
    for line, sample in read_samples(samples):
        if isinstance(sample, Sample):
            first = seen.setdefault(hashlib.sha256(sample.id.encode("utf-8", "surrogatepass")).digest()[:12], line)
            if first == line:
                yield line, sample
                continue
            reason = f"{samples}:{line}: id {sample.id!r} is taken by line {first}; ids must be unique."
        else:
            reason = str(sample)
        kind = "bad line" if isinstance(sample, SampleError) else "duplicate id"
        bad({"line": line, "fault": kind, "reason": reason})


def write_row(file: TextIO, row: dict[str, Any]) -> None:
    """One JSON line."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    try:
        file.write(text + "\n")
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can hold and UTF-8 cannot
        file.write(json.dumps(row, allow_nan=False) + "\n")
