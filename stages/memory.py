"""How much memory a run takes, this process and its data workers; and what it does with freed memory."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import psutil

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Have this process use freed memory again instead of giving it back; false where its C library cannot.

    glibc returns blocks of 32 MiB and more to the system when they are freed, and every step's gradients of stacked
    experts then begin with fresh pages: 20 ms for 64 MiB, as long as the products that fill them.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


class PeakMemory:
    """The largest resident size seen, in bytes.

    Of this process Linux keeps the exact peak. Its workers are added as they are at each :meth:`sample`; pages
    that they share with this process count in each of them.
    """

    def __init__(self) -> None:
        self.bytes = 0

    def sample(self) -> None:
        """Look at this process and all that it has started, now."""
        me = psutil.Process()
        total = me.memory_info().rss
        for child in me.children(recursive=True):
            try:
                total += child.memory_info().rss
            except psutil.Error:  # it has just ended
                continue
        self.bytes = max(self.bytes, total, _own_peak())

    @property
    def gib(self) -> float:
        """The peak in GiB."""
        return self.bytes / 2**30


def _own_peak() -> int:
    """VmHWM in bytes, 0 where there is none; getrusage would count what this process was forked from."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii", errors="replace").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
