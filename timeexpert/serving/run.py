"""Listening, serving, and stopping: what is being answered when the signal comes is finished."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from timeexpert.errors import UserError

from .limits import ServingLimits
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
    def __init__(self, config: uvicorn.Config, app: FastAPI, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._ready = app, ready
        self.gave_up = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.service.draining = True  # /readyz says so, and connections that stay open ask no more
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # the command ends by itself, with status 0

    async def _wait_tasks_to_complete(self) -> None:
        self.gave_up = True  # until all of them have come to their end
        await super()._wait_tasks_to_complete()
        self.gave_up = False


def serve(
    app: FastAPI,
    sock: socket.socket,
    limits: ServingLimits,
    *,
    stop_timeout_s: int = 30,
    ready: Callable[[str], None] = lambda url: None,
) -> bool:
    """Answer at ``sock`` until SIGINT or SIGTERM. False where requests were given up after ``stop_timeout_s``."""
    config = uvicorn_config(app, limits, stop_timeout_s=stop_timeout_s)
    server = _Server(config, app, lambda: ready(url_of(sock)))
    asyncio.run(server.serve([sock]))
    return not server.gave_up
