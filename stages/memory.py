"""How much memory a run takes: this process and its data workers."""

from __future__ import annotations

import resource
import sys

import psutil


class PeakMemory:
    """The largest resident size seen, in bytes.

    Of this process the kernel keeps the exact peak. Its workers are added as they are at each :meth:`sample`;
    pages that they share with this process count in each of them.
    """

    def __init__(self) -> None:
        self.bytes = 0

    def sample(self) -> None:
        """Look at this process and all that it has started, now."""
        unit = 1 if sys.platform == "darwin" else 1024
        own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        me = psutil.Process()
        total = me.memory_info().rss
        for child in me.children(recursive=True):
            try:
                total += child.memory_info().rss
            except psutil.Error:  # it has just ended
                continue
        self.bytes = max(self.bytes, own_peak, total)

    @property
    def gib(self) -> float:
        """The peak in GiB."""
        return self.bytes / 2**30
