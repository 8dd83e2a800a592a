"""One program at a time writes into a folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from timeexpert.errors import UserError

LOCK = ".lock"


@contextmanager
def locked(folder: Path, what: str, error: type[UserError]) -> Iterator[None]:
    """Hold the folder's lock; raises ``error`` where another ``what`` (a noun) holds it."""
    # A POSIX lock, not flock: it ends with this process, even while its workers live on for a moment.
    with open(folder / LOCK, "ab") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise error(f"{folder}: another {what} is writing here. Wait for it, or give another -o.") from None
        yield
