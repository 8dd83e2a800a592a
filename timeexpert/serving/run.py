"""Listening, serving, and stopping: what is being answered when the signal comes is finished."""

from __future__ import annotations

import asyncio
import ipaddress
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from timeexpert.errors import UserError

from .limits import ServingLimits
from .service import Service
from .wire import uvicorn_config


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound; port 0 takes any free one. Raises ``UserError``."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(128)  # now, so that a port in use is found before a model is read
    except (OSError, OverflowError, UnicodeError) as error:
        sock.close()
        raise UserError(
            f"--host {host} --port {port}: cannot listen there: {error}. Choose another --port (0 takes any free "
            "one), or another --host (127.0.0.1 is this machine alone)."
        ) from None
    return sock


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this machine reaches the socket."""
    return ipaddress.ip_address(str(sock.getsockname()[0])).is_loopback


def url_of(sock: socket.socket) -> str:
    """Where it listens: http://127.0.0.1:8000."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if sock.family == socket.AF_INET6 else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Listens until the requests in hand are answered, so that who asks meanwhile is told to come again."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._ready = service, ready
        self._stop_at: float | None = None
        self.gave_up = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._stop_at is not None:
            _end_now(self._service, sig)
        self._service.draining = True
        self._stop_at = time.monotonic() + self._service.limits.stop_timeout_s

    async def on_tick(self, counter: int) -> bool:
        if self._stop_at is not None:
            self.gave_up = self._service.metrics.open_requests > 0 and time.monotonic() >= self._stop_at
            if self.gave_up:
                self._service.engine.give_up()  # a refusal each, which is written before the connections close
            self.should_exit = self.gave_up or not self._service.metrics.open_requests
        return await super().on_tick(counter)


def _end_now(service: Service, sig: int) -> None:
    """A second signal waits for nothing: neither for threads nor for the model."""
    for child in multiprocessing.active_children():
        child.kill()
    service.remove_files()
    os._exit(128 + sig)


def leave_threads() -> None:
    """End the process without waiting for threads that still wait for another machine. Everything else is closed."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def serve(
    app: FastAPI, sock: socket.socket, limits: ServingLimits, *, ready: Callable[[str], None] = lambda url: None
) -> bool:
    """Answer at ``sock`` until SIGINT or SIGTERM.

    False where requests were given up after ``limits.stop_timeout_s``. A second signal ends the process at once, with
    the status that a shell gives to that signal.
    """
    server = _Server(uvicorn_config(app, limits), app.state.service, lambda: ready(url_of(sock)))
    asyncio.run(server.serve([sock]))
    return not server.gave_up
