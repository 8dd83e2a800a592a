"""A server in a process of its own: uvicorn, the engine and decoders as ``timeexpert serve`` runs them.

``python -m tests.serving.process CONFIG`` runs one; :func:`process` starts it. What a command line cannot say, the
config can: limits, and a name server that answers from a list, so that attacks by name need no network.
"""

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
    command = [sys.executable, "-m", "tests.serving.process", str(path)]
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


def main(path: Path) -> None:
    """Serve until SIGTERM."""
    import logging
    import socket

    from timeexpert.predict import Predictor
    from timeexpert.serving.app import create_app
    from timeexpert.serving.engine import Engine
    from timeexpert.serving.fetch import Fetcher, resolve
    from timeexpert.serving.limits import ServingLimits
    from timeexpert.serving.run import leave_threads, listen, serve
    from timeexpert.serving.settings import ServerSettings

    config = json.loads(path.read_text())
    logging.basicConfig(level=logging.INFO)
    limits, access = ServingLimits(**config.get("limits", {})), config.get("access", {})
    for name in ("allowed_folder", "samples"):
        if name in access:
            access[name] = Path(access[name])
    settings = ServerSettings(model="tiny", frame_size=16, limits=limits, **access)
    names = {name: iter(addresses) for name, addresses in config.get("names", {}).items()}

    def asked(host: str, port: int) -> list[str]:
        return next(names[host]).split() if host in names else resolve(host, port)

    def connect(address: str, port: int, timeout_s: float) -> socket.socket:
        with (path.parent / "connected.txt").open("a") as file:
            file.write(f"{address}:{port}\n")
        to = config.get("reach", {}).get(address)
        return socket.create_connection(("127.0.0.1", to) if to else (address, port), timeout=timeout_s)

    fetcher = Fetcher(settings.allowed_domains, limits, limits.max_upload_bytes, asked, connect)
    with listen("127.0.0.1", 0) as sock:
        with Engine(Predictor.load(config["model"], device="cpu"), "tiny", limits) as engine:
            app = create_app(engine, settings, fetcher=fetcher)
            serve(app, sock, limits, ready=lambda url: print(url, flush=True))
    leave_threads()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
