"""How much memory a run takes: this process and its data workers."""

from __future__ import annotations

from pathlib import Path

import psutil


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
