"""The index of a shard folder as one array in ``index.npy``, which is mapped into memory and not read.

What training needs of a video is a row of fixed size: 10 million videos take 1.6 GB of file, shared by all processes
that have mapped it, and opening takes as long as its checksum. ``index.jsonl`` says the same in JSON.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from .records import TASKS

TABLE = "index.npy"


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Entry:
    """What the index says of one video. ``tasks`` counts its questions by task."""

    shard: str
    key: str
    media: Member
    meta: Member
    sha256: str
    meta_sha256: str
    tasks: dict[str, int]

    @property
    def questions(self) -> int:
        """Number of questions about this video."""
        return sum(self.tasks.values())


class IndexTable(Sequence[Entry]):
    """The entries of a folder. ``rows``: as :func:`row_type`; ``shards``: names, to which a row's ``shard`` points."""

    def __init__(self, rows: np.ndarray, shards: Sequence[str]) -> None:
        self.rows, self.shards = rows, list(shards)

    @classmethod
    def of(cls, entries: Iterable[Entry], shards: Sequence[str]) -> IndexTable:
        """Lay out ``entries``, whose shards are among ``shards``."""
        place = {name: i for i, name in enumerate(shards)}
        entries = list(entries)
        rows = np.zeros(len(entries), row_type(max((len(e.key) for e in entries), default=1)))
        for row, entry in zip(rows, entries, strict=True):
            row["shard"] = place[entry.shard]
            row["key"], row["extension"] = entry.key.encode(), entry.media.name.partition(".")[2].encode()
            for name, member in (("media", entry.media), ("json", entry.meta)):
                row[name] = (member.offset, member.size)
            row["sha256"] = np.void(bytes.fromhex(entry.sha256))
            row["json_sha256"] = np.void(bytes.fromhex(entry.meta_sha256))
            for task, count in entry.tasks.items():
                row["tasks"][task] = count
        return cls(rows, shards)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> Entry: ...
    @overload
    def __getitem__(self, i: slice) -> IndexTable: ...

    def __getitem__(self, i: int | slice) -> Entry | IndexTable:
        if isinstance(i, slice):
            return IndexTable(self.rows[i], self.shards)
        shard, key, extension, media, meta, sha256, json_sha256, tasks = self.rows[i].item()
        key = key.decode()
        return Entry(
            self.shards[shard],
            key,
            Member(f"{key}.{extension.decode()}", *media),
            Member(f"{key}.json", *meta),
            sha256.hex(),
            json_sha256.hex(),
            {task: count for task, count in zip(TASKS, tasks, strict=True) if count},
        )

    @property
    def questions(self) -> np.ndarray:
        """Questions of each video, int64 (V,)."""
        return sum((self.rows["tasks"][task].astype(np.int64) for task in TASKS), np.zeros(len(self), np.int64))

    def with_tasks(self, tasks: Iterable[str]) -> np.ndarray:
        """Places of the videos that have a question of any of ``tasks``, int64, in order."""
        wanted = [self.rows["tasks"][task] > 0 for task in tasks if task in TASKS]
        return np.flatnonzero(np.any(wanted, axis=0) if wanted else np.zeros(len(self), bool))

    def to_bytes(self) -> bytes:
        """The contents of ``index.npy``."""
        out = io.BytesIO()
        np.save(out, self.rows, allow_pickle=False)
        return out.getvalue()


def row_type(key_length: int) -> np.dtype[Any]:
    """A row: where a video's two members lie, their sums, and how many questions of each task it has."""
    member = [("offset", "<u8"), ("size", "<u8")]
    return np.dtype(
        [
            ("shard", "<u4"), ("key", f"S{key_length}"), ("extension", "S8"), ("media", member), ("json", member),
            ("sha256", "V32"), ("json_sha256", "V32"), ("tasks", [(task, "<u4") for task in TASKS]),
        ]
    )  # fmt: skip


def open_table(path: Path, manifest: dict[str, Any]) -> IndexTable | None:
    """The table of a folder, mapped; ``None`` where it is not there or not the one that ``manifest`` describes."""
    file = path / TABLE
    try:
        with open(file, "rb") as data:
            if hashlib.file_digest(data, "sha256").hexdigest() != manifest.get("table_sha256"):
                return None
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    shards = [shard["name"] for shard in manifest["shards"]]
    if rows.dtype != row_type(rows.dtype["key"].itemsize) or (len(rows) and rows["shard"].max() >= len(shards)):
        return None
    return IndexTable(rows, shards)
