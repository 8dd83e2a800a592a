"""Opening files in folders that others may write to: what was checked is what is read.

Between a check of a path and its opening, a file or a folder on the way can be swapped for a link. So a path is
opened part by part below descriptors (``openat`` with ``O_NOFOLLOW``), and a file is told by its inode, size and times.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

# A folder that may be passed but not listed can be opened on Linux all the same.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe without a writer would block


class Identity(NamedTuple):
    """One state of one file."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: io.BufferedReader) -> Identity:
        """Of an open file."""
        found = os.fstat(file.fileno())
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def open_without_links(path: Path) -> io.BufferedReader:
    """Open a regular file. Raises ``OSError``, also where a part of the absolute ``path`` is a link."""
    folder = os.open(path.anchor, _FOLDER)
    try:
        for part in path.parts[1:-1]:
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        handle = os.open(path.name, _FILE, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("not a regular file")
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
