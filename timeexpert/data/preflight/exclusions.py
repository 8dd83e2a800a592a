"""The list of clips to leave out, as builders read it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timeexpert.data.records import parse_json
from timeexpert.errors import UserError

from .run import CLIPS, EXCLUDE, SUMMARY, VERSION


@dataclass(frozen=True)
class Exclusions:
    """A finished preflight: ``reasons`` by excluded video, ``sizes`` in bytes of every checked one (``None`` where the
    file was missing), and the checksum of the list."""

    folder: Path
    reasons: dict[str, str]
    sizes: dict[str, int | None]
    sha256: str

    def check_covers(self, sizes: dict[str, int | None]) -> None:
        """Raises :class:`UserError` unless each of these videos was checked with this size in bytes."""
        missing = [video for video in sizes if video not in self.sizes]
        changed = [video for video in sizes if video in self.sizes and sizes[video] != self.sizes[video]]
        for videos, what in ((missing, "were not checked by it"), (changed, "have another size than when checked")):
            if videos:
                raise UserError(
                    f"--preflight {self.folder}: {len(videos)} of {len(sizes)} videos {what}, the first is "
                    f"{videos[0]}. Run timeexpert data preflight with these samples, this --media and "
                    f"-o {self.folder} first."
                )


def read_exclusions(folder: str | Path) -> Exclusions:
    """The list of a preflight folder. Raises :class:`UserError` where the preflight is missing or was not finished."""
    folder = Path(folder)
    again = f"Run timeexpert data preflight with -o {folder}."
    try:
        summary = parse_json((folder / SUMMARY).read_text(encoding="utf-8"))
        if summary["version"] != VERSION:
            raise UserError(f"version {summary['version']!r}; this program reads {VERSION}")
        if summary["finished"] is not True:
            raise UserError("the preflight was not finished")
        reasons, sizes = {}, {}
        for row in _rows(folder / EXCLUDE):
            reasons[str(row["video"])] = str(row["reason"])
        for row in _rows(folder / CLIPS):
            if row["listed"]:
                sizes[str(row["video"])] = row["stamp"]["size"] if row["stamp"] is not None else None
    except OSError as error:
        raise UserError(f"--preflight {folder}: {error.filename}: {error.strerror}. {again}") from None
    except (ValueError, KeyError, TypeError) as error:  # UserError and JSON's errors are ValueErrors
        raise UserError(f"--preflight {folder}: not a finished preflight: {str(error).rstrip('.')}. {again}") from None
    digest = hashlib.sha256(json.dumps(reasons, sort_keys=True).encode()).hexdigest()
    return Exclusions(folder, reasons, sizes, digest)


def _rows(path: Path) -> Iterator[Any]:
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield parse_json(line)
            except ValueError as error:
                raise UserError(f"{path.name}:{number}: {error}") from None
