"""Signals that end training in order."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any


class Stopped(Exception):
    """SIGTERM or SIGINT: the state is saved, the process may end."""


class StopOnSignals:
    """Within it SIGTERM and SIGINT call ``ask`` for an orderly stop; a second one is obeyed at once."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self.ask = ask

    def __enter__(self) -> None:
        self.old: dict[int, Any] = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.ask()
        signal.signal(number, self.old[number])
