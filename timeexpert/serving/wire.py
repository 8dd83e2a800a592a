"""HTTP/1.1 on uvicorn with bounds on time: headers, unread bodies and readers that do not read are given up."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from .headers import SAFE_HEADERS
from .limits import ServingLimits

FLUSH_S = 2  # at the very end, for answers that are still on their way out


class _Bounded(H11Protocol):
    limits: ServingLimits
    _discarding = False
    _read_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A connection above the limit is told so and closed."""
        if len(self.connections) >= self.limits.max_connections:
            self.transport = transport
            self._refuse(503, "too many connections; try again soon.", "overloaded_error")
            return
        super().connection_made(transport)
        self._watch_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Timers end with their connection."""
        for timer in (self._read_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        if self in self.connections:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Trickling bytes reset no clock."""
        if self._discarding:
            return
        super().data_received(data)
        if not self._discarding:
            self._watch_reading()

    def on_response_complete(self) -> None:
        """A client that was refused may still be sending: let it finish for a while, else it loses the answer."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self._read_timer is None:
            self._read_timer = self.loop.call_later(self.limits.linger_s, self.transport.abort)

    def _watch_reading(self) -> None:
        """While headers are awaited a clock runs; between requests uvicorn's own does."""
        waits = self.conn.their_state is h11.IDLE
        done = self.conn.their_state is not h11.SEND_BODY
        if self._read_timer is not None and not waits and done:
            self._read_timer.cancel()
            self._read_timer = None
        elif self._read_timer is not None and not waits and self.cycle and not self.cycle.response_complete:
            self._read_timer.cancel()
            self._read_timer = None
        elif waits and self._read_timer is None:
            self._read_timer = self.loop.call_later(self.limits.header_timeout_s, self._headers_late)

    def _headers_late(self) -> None:
        self._read_timer = None
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            words = f"the headers did not arrive within {self.limits.header_timeout_s:g} s."
            self._refuse(408, words, "invalid_request_error")
        else:  # nothing was asked
            self.transport.abort()

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """What is no request gets an error of the same shape as all others."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            words = "not a request that can be read: broken HTTP, or too many bytes of headers."
            self._refuse(400, words, "invalid_request_error")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str, kind: str) -> None:
        """Answer, and let the client finish sending for a while: closing at once would take the answer back."""
        self._discarding = True
        self.transport.write(_refusal(status, message, kind))
        self.transport.write_eof()
        self._write_timer = self.loop.call_later(self.limits.linger_s, self.transport.abort)


def protocol(limits: ServingLimits) -> type[H11Protocol]:
    """uvicorn's protocol for h11 with ``limits``."""
    return type("Bounded", (_Bounded,), {"limits": limits})


def _refusal(status: int, message: str, kind: str) -> bytes:
    body = json.dumps({"error": {"message": message, "type": kind}}).encode()
    phrase = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}[status]
    retry = "Retry-After: 1\r\n" if status == 503 else ""
    safe = "".join(f"{name}: {value}\r\n" for name, value in SAFE_HEADERS.items())
    about = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{retry}{safe}"
    head = f"HTTP/1.1 {status} {phrase}\r\n{about}"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def uvicorn_config(app: ASGIApp, limits: ServingLimits) -> uvicorn.Config:
    """How the app is served: our bounds, no version in the headers, no log of uvicorn's own but failures."""
    return uvicorn.Config(
        app,
        http=protocol(limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=limits.max_header_bytes,
        timeout_keep_alive=int(limits.keep_alive_s),
        timeout_graceful_shutdown=FLUSH_S,
    )
