"""Writes a shard folder one finished shard at a time, so that a build that is cut off can go on."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import webdataset

from .index_table import Entry
from .records import SampleError, parse_json
from .shard_index import (
    SHARD_NAME,
    UNFINISHED,
    ShardError,
    index_line,
    index_shard,
    parse_entry,
    write_atomically,
    write_index,
)

DROPPED, NOTES = "dropped.jsonl", "notes.jsonl"


class ShardFolderWriter:
    """Videos go in with :meth:`add`, in order; each carries its place in the list of inputs.

    A shard is written in ``.build``, read back and checked, moved into place, and committed by a file that holds its
    index lines, the rows dropped and noted up to then, and the place of the first video that is not in it. Raises
    ``OSError`` when the disk does.
    """

    def __init__(self, out: Path, max_bytes: int) -> None:
        self.out, self.state, self.max_bytes = out, out / UNFINISHED, max_bytes
        self.finished = 0  # shards
        self.next_place = 0
        self.entries: list[Entry] = []
        self.rows: dict[str, list[dict[str, Any]]] = {DROPPED: [], NOTES: []}
        self._fresh: dict[str, list[dict[str, Any]]] = {DROPPED: [], NOTES: []}  # since the last commit
        self._tars: Any = None
        self._file: _Temporary | None = None
        self._size = 0

    def resume(self) -> int:
        """Take over the committed shards, delete the rest; returns how many were taken over."""
        while self._take_over(self.state / f"shard-{self.finished:06d}.json"):
            self.finished += 1
        for path in [*self.out.iterdir(), *self.state.iterdir()]:
            number = int(path.stem[6:]) if SHARD_NAME.fullmatch(path.stem + ".tar") else -1
            if number >= self.finished and path.suffix in (".tar", ".json"):
                path.unlink()
        return self.finished

    def _take_over(self, record: Path) -> bool:
        try:
            row = parse_json(record.read_text(encoding="utf-8"))
            if (self.out / f"{record.stem}.tar").stat().st_size != row["size"]:
                return False
            entries = [parse_entry(line) for line in row["entries"]]
            place, rows = int(row["next"]), {name: list(row[name]) for name in self.rows}
        except (OSError, SampleError, ValueError, KeyError, TypeError, AttributeError):
            return False
        self.entries += entries
        self.next_place = place
        for name, more in rows.items():
            self.rows[name] += more
        return True

    def note(self, file: str, row: dict[str, Any]) -> None:
        """Remember a row of ``dropped.jsonl`` or ``notes.jsonl``."""
        self._fresh[file].append(row)

    def add(self, place: int, key: str, extension: str, media: bytes, meta: dict[str, Any]) -> None:
        """Write one video; begins a new shard where it would pass the size limit."""
        meta_bytes = json.dumps(meta, allow_nan=False).encode()
        size = len(media) + len(meta_bytes)
        if self._tars is None:
            self._tars = webdataset.ShardWriter(
                "shard-%06d.tar",
                maxcount=2**62,
                maxsize=2**62,
                start_shard=self.finished,
                post=self._commit,
                opener=self._open,
                verbose=0,
                encoder=False,
                mtime=0,
                user="",
                group="",
            )
        elif self._size + size > self.max_bytes:
            self.next_place = place
            self._tars.next_stream()
        self._tars.write({"__key__": key, extension: media, "json": meta_bytes})
        self._size += size

    def finish(self, places: int, build: dict[str, Any]) -> None:
        """Close the last shard and write the folder's index, rows and description; ``places`` is the input count."""
        self.next_place = places
        if self._tars is not None:
            self._tars.close()
        for name, rows in self.rows.items():
            lines = [*rows, *self._fresh[name]]
            lines.sort(key=lambda row: row["line"])
            write_atomically(self.out / name, "".join(json.dumps(row) + "\n" for row in lines).encode())
        write_index(self.out, self.entries, build)
        shutil.rmtree(self.state)

    def abandon(self) -> None:
        """Throw the unfinished shard away, if there is one."""
        if self._file is not None:
            self._file.abandon()
            self._file = None

    def _open(self, name: str) -> _Temporary:
        self._file, self._size = _Temporary(self.state / name), 0
        return self._file

    def _commit(self, name: str) -> None:
        assert self._file is not None
        self._file.finish()
        self._file = None
        tar = self.state / name
        entries, problems = index_shard(tar)
        if problems:
            raise ShardError(f"{problems[0]}. It was written a moment ago: check the disk, then run the build again.")
        row = {
            "next": self.next_place,
            "size": tar.stat().st_size,
            "entries": [index_line(e) for e in entries],
            **self._fresh,
        }
        os.replace(tar, self.out / name)
        write_atomically(self.state / f"{tar.stem}.json", json.dumps(row).encode())
        self.entries += entries
        for file, rows in self._fresh.items():
            self.rows[file] += rows
        self._fresh = {file: [] for file in self._fresh}
        self.finished += 1


class _Temporary:
    """A file that tar streams write to. Once abandoned it takes no bytes, and tar's own clean-up stays silent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = open(path, "wb")

    def write(self, data: bytes) -> int:
        return len(data) if self._file is None else self._file.write(data)

    def finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None

    def abandon(self) -> None:
        file, self._file = self._file, None
        with suppress(OSError):
            file.close()
        self.path.unlink(missing_ok=True)
