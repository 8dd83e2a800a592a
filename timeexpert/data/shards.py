"""Shards: videos and their questions in tar files, read at random through an index of offsets.

A data set folder holds ``shard-000000.tar, ...`` (WebDataset: any reader of that format can stream them),
``index.jsonl`` (one line per video: where its two members lie; ``index.npy`` is the same for machines) and
``dataset.json`` (counts, sizes, the checksums of both). Per video there is ``<key>.mp4`` (the original bytes and
extension) and ``<key>.json``::

    {"video": path, "sha256": of the media bytes, "duration_s", "info": {...}, "samples": [Sample.to_json(), ...]}

Tar has no checksum of its payload, so every byte that is read is checked against these sums. Folders are untrusted:
only plain data is parsed, and names and offsets cannot lead outside the shard.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .index_table import IndexTable, open_table
from .records import Sample
from .shard_index import (
    BUILD_AGAIN,
    INDEX,
    INDEX_AGAIN,
    MANIFEST,
    IndexReport,
    ShardError,
    VideoRecord,
    read_index,
    read_manifest,
    rebuild_index,
)

__all__ = ["IndexReport", "ShardDataset", "ShardError", "VideoRecord", "rebuild_index"]


class ShardDataset:
    """Random access to the questions of a shard folder, numbered from 0 in the order of the index.

    Files are opened when first read, at most ``max_open_files`` at once, and not pickled: a copy in another process
    opens its own. Reads do not move a file position, so a forked copy is safe too; one thread at a time.
    ``check=False`` leaves the sums of what is read out, on a file system that keeps its own.
    Raises :class:`ShardError` when the folder is incomplete or does not match its index.
    """

    def __init__(
        self, path: str | Path, *, max_open_files: int = 64, max_records: int = 64, check: bool = True
    ) -> None:
        self.path, self.check = Path(path), check
        self.max_open_files, self.max_records = max_open_files, max_records
        self.manifest = read_manifest(self.path)
        self._sizes = {shard["name"]: shard["size"] for shard in self.manifest["shards"]}
        table = open_table(self.path, self.manifest)
        self.entries = (
            IndexTable.of(read_index(self.path, self.manifest), list(self._sizes)) if table is None else table
        )
        self._first_question = np.concatenate([[0], self.entries.questions.cumsum()])
        self._forget()

    def _forget(self) -> None:
        self._files: OrderedDict[str, int] = OrderedDict()
        self._records: OrderedDict[int, VideoRecord] = OrderedDict()
        self._verified = np.zeros(len(self.entries), bool)

    def __len__(self) -> int:
        """Number of questions."""
        return int(self._first_question[-1])

    def sample(self, i: int) -> Sample:
        """Question ``i``."""
        video = self._video_of(i)
        return self._record(video).samples[i - int(self._first_question[video])]

    def record(self, i: int) -> VideoRecord:
        """The video of question ``i``, with all of its questions."""
        return self._record(self._video_of(i))

    def video_key(self, i: int) -> str:
        """The sha256 of the media bytes of question ``i``: equal for equal files, good as a cache key."""
        return self.entries[self._video_of(i)].sha256

    def media(self, i: int) -> tuple[bytes, str]:
        """The media bytes of question ``i`` and the video's name; checked when first read in this process."""
        return self.video_media(self._video_of(i))

    def video_media(self, video: int) -> tuple[bytes, str]:
        """The media bytes and the name of video ``video``; checked when first read in this process."""
        return self.stored(video, "media"), self._record(video).video

    def stored(self, video: int, member: Literal["media", "json"]) -> bytes:
        """A member of video ``video`` as it is stored, checked against its sum; media when first read in this process.

        Raises :class:`ShardError`.
        """
        place, key, extension, media, description, sha256, json_sha256, _ = self.entries.rows[video].item()
        shard, is_media = self.entries.shards[place], member == "media"
        name = f"{key.decode()}.{extension.decode() if is_media else 'json'}"
        data = self._read(shard, name, *(media if is_media else description))
        if self.check and not (is_media and self._verified[video]):
            if hashlib.sha256(data).digest() != (sha256 if is_media else json_sha256):
                raise ShardError(
                    f"{self.path / shard}: the bytes of {name} have changed (their sha256 is not the one in {INDEX}). "
                    f"Delete {shard}, then: {self._say(BUILD_AGAIN)}"
                )
            self._verified[video] |= is_media
        return data

    @property
    def features(self) -> dict[str, Any] | None:
        """The kind of features that are stored in place of videos (:mod:`.features`); None: videos.

        Raises :class:`ShardError`.
        """
        kind = self.manifest["build"].get("features")
        if kind is None:
            return None
        from .features import check_kind

        try:
            return check_kind(kind)
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(
                f"{self.path / MANIFEST}: features are described wrongly: {error}. {self._say(BUILD_AGAIN)}"
            ) from None

    def video(self, video: int) -> VideoRecord:
        """Video ``video`` (a place in ``entries``), with all of its questions."""
        return self._record(video)

    def close(self) -> None:
        """Close the open shards; reading opens them again."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._forget()

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_files", "_records", "_verified")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _video_of(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"{self.path}: question {i} is outside 0..{len(self) - 1}")
        return int(self._first_question.searchsorted(i, side="right")) - 1

    def _record(self, video: int) -> VideoRecord:
        if video not in self._records:
            data, entry = self.stored(video, "json"), self.entries[video]
            record = VideoRecord.parse(data, f"{self.path / entry.shard}: {entry.meta.name}")
            if record.sha256 != entry.sha256 or len(record.samples) != entry.questions:
                raise ShardError(
                    f"{self.path / entry.shard}: {entry.meta.name} does not match {INDEX}. {self._say(INDEX_AGAIN)}"
                )
            self._records[video] = record
            if len(self._records) > self.max_records:
                self._records.popitem(last=False)
        self._records.move_to_end(video)
        return self._records[video]

    def _read(self, shard: str, name: str, offset: int, size: int) -> bytes:
        end = offset + size
        if end > self._sizes[shard]:
            raise ShardError(f"{self.path / shard}: {name} would lie outside of it. {self._say(INDEX_AGAIN)}")
        if shard not in self._files:
            if len(self._files) >= self.max_open_files:
                os.close(self._files.popitem(last=False)[1])
            try:
                self._files[shard] = os.open(self.path / shard, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as error:
                raise ShardError(f"{self.path / shard}: {error.strerror}. {self._say(BUILD_AGAIN)}") from None
        self._files.move_to_end(shard)
        chunks = []
        while offset < end:  # one pread returns at most 2 GiB
            chunk = os.pread(self._files[shard], end - offset, offset)
            if not chunk:
                raise ShardError(f"{self.path / shard}: ends inside {name}. {self._say(BUILD_AGAIN)}")
            chunks.append(chunk)
            offset += len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _say(self, way_out: str) -> str:
        return way_out.format(path=self.path)
