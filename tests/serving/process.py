"""Starts a server in a process of its own (see :mod:`tests.serving.apart`), and asks it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from .conftest import Asker

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Process(Asker):
    """A running server, and where it writes what it connected to and what it logs."""

    running: subprocess.Popen[str]
    place: tuple[str, int]
    folder: Path

    @property
    def address(self) -> tuple[str, int]:
        return self.place

    @property
    def connected(self) -> list[str]:
        """Every address:port that the server connected to, in order."""
        path = self.folder / "connected.txt"
        return path.read_text().split() if path.exists() else []

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def workers(self) -> list[psutil.Process]:
        """The decoder processes."""
        children = psutil.Process(self.running.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def terminate(self) -> None:
        self.running.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 60.0) -> int:
        """The exit status."""
        return self.running.wait(timeout_s)


@contextmanager
def process(folder: Path, model: Path, **config: Any) -> Iterator[Process]:
    """Start a server. ``config``: ``access`` and ``limits`` (fields of ServerSettings and ServingLimits), ``names``
    (host: addresses, one after the other as they are asked for), ``reach`` (address: local port that it leads to)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps({"model": str(model), "folder": str(folder), **config}))
    command = [sys.executable, "-m", "tests.serving.apart", str(path)]
    env = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("w") as log:
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, env=env) as running:
            assert running.stdout is not None
            url = urlsplit(running.stdout.readline().strip())
            assert url.hostname and url.port, (folder / "log.txt").read_text()
            try:
                yield Process(running, (url.hostname, url.port), folder)
            finally:
                if running.poll() is None:
                    running.kill()
