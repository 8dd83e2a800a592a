"""Videos on disk while they are needed: a private folder, a file per content, uploads by id with quota and expiry."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .limits import RequestError, ServingLimits, disk_full


@dataclass(frozen=True)
class Blob:
    """A file in the store: its bytes' SHA-256 (hex) is its name."""

    path: Path
    sha256: str
    size: int


class Store:
    """Files named by their content in ``folder``. Equal contents share a file, which goes with its last user.

    Thread-safe. Names that clients give never become paths.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.used_bytes = 0
        self._users: dict[str, int] = {}
        self._lock = threading.Lock()

    def write(self, chunks: Iterable[bytes]) -> Blob:
        """Keep the bytes of ``chunks`` until :meth:`release`. Raises :class:`RequestError` where there is no room."""
        digest, size = hashlib.sha256(), 0
        handle, name = tempfile.mkstemp(dir=self.folder, prefix="part-")
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    with self._lock:
                        if self.used_bytes + len(chunk) > self.max_bytes:
                            raise disk_full()
                        self.used_bytes += len(chunk)
                    size += len(chunk)
                    digest.update(chunk)
                    file.write(chunk)
            blob = Blob(self.folder / digest.hexdigest(), digest.hexdigest(), size)
            with self._lock:
                users = self._users.get(blob.sha256, 0)
                if users:
                    self.used_bytes -= size
                    os.unlink(name)
                else:
                    os.replace(name, blob.path)
                self._users[blob.sha256] = users + 1
        except BaseException:
            with self._lock:
                self.used_bytes -= size
            Path(name).unlink(missing_ok=True)
            raise
        return blob

    def share(self, blob: Blob) -> Blob:
        """One more user of a file that has one."""
        with self._lock:
            self._users[blob.sha256] += 1
        return blob

    def release(self, blob: Blob) -> None:
        """One user less; the last one takes the file along."""
        with self._lock:
            self._users[blob.sha256] -= 1
            if not self._users[blob.sha256]:
                del self._users[blob.sha256]
                self.used_bytes -= blob.size
                blob.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class UploadedFile:
    """One upload; times are seconds since 1970."""

    id: str
    filename: str
    purpose: str
    created_at: int
    expires_at: int
    blob: Blob

    def to_json(self) -> dict[str, object]:
        """OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.blob.size,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class Uploads:
    """Uploaded files by id, until they are deleted or expire. Thread-safe. ``clock``: seconds since 1970."""

    def __init__(self, store: Store, limits: ServingLimits, clock: Callable[[], float] = time.time) -> None:
        self._store, self._limits, self._clock = store, limits, clock
        self._files: dict[str, UploadedFile] = {}
        self._lock = threading.Lock()

    def add(self, chunks: Iterable[bytes], filename: str, purpose: str) -> UploadedFile:
        """Raises :class:`RequestError` where the file is empty or there is no room."""
        blob = self._store.write(chunks)
        now = int(self._clock())
        file = UploadedFile(
            f"file-{uuid.uuid4().hex}", shown_name(filename), purpose, now, now + int(self._limits.file_expiry_s), blob
        )
        try:
            if blob.size == 0:
                raise RequestError("file: the video is empty (0 bytes).")
            with self._lock:
                self._expire()
                used = sum(f.blob.size for f in self._files.values())
                if len(self._files) >= self._limits.max_files or used + blob.size > self._limits.max_files_bytes:
                    raise disk_full()
                self._files[file.id] = file
        except RequestError:
            self._store.release(blob)
            raise
        return file

    def list(self) -> list[UploadedFile]:
        """The newest first."""
        with self._lock:
            self._expire()
            return list(self._files.values())[::-1]

    def get(self, file_id: str) -> UploadedFile:
        """Raises :class:`RequestError` 404."""
        with self._lock:
            self._expire()
            return self._find(file_id)

    def lease(self, file_id: str) -> UploadedFile:
        """Like :meth:`get`; the bytes stay until ``Store.release(file.blob)``, whatever happens to the upload."""
        with self._lock:
            self._expire()
            file = self._find(file_id)
            self._store.share(file.blob)
            return file

    def delete(self, file_id: str) -> None:
        """Raises :class:`RequestError` 404."""
        with self._lock:
            self._store.release(self._find(file_id).blob)
            del self._files[file_id]

    def _find(self, file_id: str) -> UploadedFile:
        if file_id not in self._files:
            raise RequestError("no such file; it was deleted or has expired. Upload it again (POST /v1/files).", 404)
        return self._files[file_id]

    def _expire(self) -> None:
        now = self._clock()
        for file in [f for f in self._files.values() if f.expires_at <= now]:
            self._store.release(file.blob)
            del self._files[file.id]


def shown_name(name: str) -> str:
    """A file name for display: its last part, without control characters, at most 200 characters."""
    last = re.split(r"[/\\]", name)[-1].encode("utf-8", "replace").decode("utf-8")
    return "".join(c for c in last if c.isprintable())[:200].strip() or "video"
