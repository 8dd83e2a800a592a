"""HTTP for the engine, on Python's own server: who may ask, how much may be sent, how long anything may take.

One request per connection. Whatever goes wrong is answered as ``{"error": {"message", "type"}}``; a failure of
ours is logged here with its traceback and answered without it.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import io
import ipaddress
import json
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from threading import BoundedSemaphore
from typing import Any

from timeexpert.errors import UserError

from .api import completion, read_body, read_question
from .engine import Engine
from .limits import RequestError

ROUTES = {"/health": "GET", "/v1/models": "GET", "/v1/chat/completions": "POST"}


@dataclass(frozen=True)
class Access:
    """Who may ask, and which folder ``file://`` may name. Closed unless opened."""

    api_key: str | None = None
    allowed_folder: Path | None = None

    def __post_init__(self) -> None:
        if self.api_key is not None and not (self.api_key.strip() and self.api_key.isascii()):
            raise UserError("--api-key must be ASCII characters, at least one. Leave it out to ask for no key.")
        if self.allowed_folder is not None and not self.allowed_folder.is_dir():
            raise UserError(f"--allowed-local-media-path ({self.allowed_folder}) is not a folder.")

    def accepts(self, authorization: str) -> bool:
        """Whether the header ``Authorization`` holds the key; takes the same time whatever it holds."""
        if self.api_key is None:
            return True
        digests = [hashlib.sha256(text.encode("utf-8")).digest() for text in (authorization, f"Bearer {self.api_key}")]
        return hmac.compare_digest(*digests)


class Server(ThreadingMixIn, TCPServer):
    """Listens from the moment it is made; ``serve_forever()`` answers. ``port`` 0 takes any free one."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, engine: Engine, access: Access) -> None:
        self.engine, self.access, self.limits = engine, access, engine.limits
        self.started = int(time.time())
        self.slots = BoundedSemaphore(self.limits.max_concurrent)
        self._connections = BoundedSemaphore(self.limits.max_connections)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError, UnicodeError) as error:
            raise UserError(
                f"--host {host} --port {port}: cannot listen there: {error}. Choose another --port (0 takes any free "
                "one), or another --host (127.0.0.1 is this machine alone)."
            ) from None
        self.loopback = ipaddress.ip_address(str(self.server_address[0])).is_loopback

    @property
    def url(self) -> str:
        """Where it listens: http://127.0.0.1:8000."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if self.address_family == socket.AF_INET6 else f"http://{host!s}:{port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread per connection, up to ``max_connections``."""
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        body = b'{"error": {"message": "too many connections; try again soon.", "type": "overloaded_error"}}'
        head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
        try:
            request.settimeout(1)
            request.sendall(head + b"Retry-After: 1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except OSError:
            pass  # it went away by itself
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, from its first byte to its last."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or was too slow is no event; anything else is."""
        if not isinstance(sys.exception(), (OSError, http.client.HTTPException)):
            traceback.print_exc()

    def finish_requests(self, timeout_s: float) -> bool:
        """Wait until no request is being answered; new ones are refused from here on. False where time ran out."""
        end = time.monotonic() + timeout_s
        return all(
            self.slots.acquire(timeout=max(0, end - time.monotonic())) for _ in range(self.limits.max_concurrent)
        )


class _BoundedReader(io.RawIOBase):
    """Reads a socket until a deadline and up to a number of bytes, however slowly they trickle in."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.allow(0, 0)

    def allow(self, timeout_s: float, max_bytes: int) -> None:
        """From now on: this many seconds, and this many bytes more."""
        self._deadline, self._left = time.monotonic() + timeout_s, max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wait_s = self._deadline - time.monotonic()
        if wait_s <= 0:
            raise TimeoutError
        if self._left <= 0:
            raise http.client.HTTPException("more bytes of headers than are read")
        self._connection.settimeout(wait_s)
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class Handler(BaseHTTPRequestHandler):
    """One request. The key is checked first, on every path, and the body is read last."""

    server: Server
    protocol_version = default_request_version = "HTTP/1.1"  # by default, a broken request is answered without a status

    def setup(self) -> None:
        """Reading gets its bounds."""
        super().setup()
        self.rfile.close()
        self._reader = _BoundedReader(self.connection)
        self.rfile = io.BufferedReader(self._reader)
        self._reader.allow(self.server.limits.header_timeout_s, self.server.limits.max_header_bytes)
        self._unread = False  # whether a client that has its answer may still be sending

    def version_string(self) -> str:
        """The header ``Server``: no versions."""
        return "timeexpert"

    def handle(self) -> None:
        """One request; then, if it was refused unread, let the client finish sending: else it loses the answer."""
        self.handle_one_request()
        if self._unread:
            try:
                self.connection.shutdown(socket.SHUT_WR)
                self._reader.allow(self.server.limits.linger_s, sys.maxsize)
                while self._reader.read(65536):
                    pass
            except OSError:
                pass

    def handle_expect_100(self) -> bool:
        """Whether to go on is said when the body is read: by then the request may be refused."""
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class finds wrong, in our words' shape. A method that nobody offers is ours to refuse."""
        if code == 501:
            self.do_GET()
        else:
            self._unread = True
            self._send_error(RequestError(f"not a request that can be read: {message or code}.", code))

    def do_GET(self) -> None:
        """Answer any method."""
        headers = self.headers
        self._unread = "Transfer-Encoding" in headers or headers.get("Content-Length", "0").strip() != "0"
        try:
            self._send(200, self._answer())
        except RequestError as error:
            self._send_error(error)
        except ConnectionError:
            self._unread = False  # the client went away
        except Exception:
            traceback.print_exc()
            self._send_error(RequestError("the server failed; its log says why.", 500, "server_error"))

    do_POST = do_GET

    def _answer(self) -> dict[str, Any]:
        self._check_host()
        if not self.server.access.accepts(self.headers.get("Authorization", "")):
            raise RequestError(
                "wrong or missing API key: send the header Authorization: Bearer KEY.", 401, "authentication_error"
            )
        path = self.path.partition("?")[0]
        if path not in ROUTES:
            raise RequestError(f"nothing is served at this path; there are {', '.join(ROUTES)}.", 404)
        if self.command != ROUTES[path]:
            raise RequestError(f"{path} takes {ROUTES[path]}, not {self.command[:20]}.", 405)
        engine = self.server.engine
        if path == "/health":
            return {"status": "ok", "model": engine.name}
        if path == "/v1/models":
            row = {"id": engine.name, "object": "model", "created": self.server.started, "owned_by": "timeexpert"}
            return {"object": "list", "data": [row]}
        if not self.server.slots.acquire(blocking=False):
            busy = self.server.limits.max_concurrent
            raise RequestError(f"{busy} requests are being answered; try again soon.", 503, "overloaded_error")
        try:
            body = read_body(self._body(), self.server.limits)
            question = read_question(body, engine.name, self.server.access.allowed_folder, self.server.limits)
            del body
            return completion(engine.answer(question), engine.name)
        finally:
            self.server.slots.release()

    def _check_host(self) -> None:
        """A page in a browser can point its own name at 127.0.0.1 and ask from there; it has no key to send."""
        if self.server.access.api_key is not None or not self.server.loopback:
            return
        host = self.headers.get("Host", "localhost").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        try:
            local = name == "localhost" or ipaddress.ip_address(name).is_loopback
        except ValueError:
            local = False
        if not local:
            raise RequestError("the Host header must be localhost or 127.0.0.1, as the server listens there.", 403)

    def _body(self) -> bytes:
        limits, headers = self.server.limits, self.headers
        lengths = set(headers.get_all("Content-Length", []))
        if "Transfer-Encoding" in headers or not lengths:
            raise RequestError("send the body with one Content-Length, not in chunks.", 411)
        length = lengths.pop().strip()
        if lengths or not (length.isascii() and length.isdigit()):
            raise RequestError("Content-Length must be one whole number of bytes.")
        if len(length) > 18 or int(length) > limits.max_body_bytes:
            raise RequestError(
                f"the body has {length[:19]} bytes; at most {limits.max_body_bytes} are read (--max-body-mb). Send a "
                "shorter or smaller video.",
                413,
            )
        if headers.get_content_type() != "application/json":  # others a browser would send from any page
            raise RequestError("Content-Type must be application/json.", 415)
        if headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        self._reader.allow(limits.body_timeout_s, int(length))
        try:
            body = self.rfile.read(int(length))
        except TimeoutError:
            raise RequestError(f"the body did not arrive within {limits.body_timeout_s:g} s.", 408) from None
        if len(body) < int(length):
            raise ConnectionResetError("the client stopped in the middle of the body")
        self._unread = False
        return body

    def _send_error(self, error: RequestError) -> None:
        headers = {401: [("WWW-Authenticate", "Bearer")], 503: [("Retry-After", "1")]}.get(error.status, [])
        if error.status == 405:
            headers = [("Allow", ROUTES[self.path.partition("?")[0]])]
        self._send(error.status, {"error": {"message": str(error), "type": error.kind}}, headers)

    def _send(self, status: int, body: dict[str, Any], headers: Sequence[tuple[str, str]] = ()) -> None:
        data = json.dumps(body, allow_nan=False).encode("ascii")
        self.close_connection = True
        self.connection.settimeout(self.server.limits.write_timeout_s)
        try:
            self.send_response(status)
            for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(data))), *headers):
                self.send_header(name, value)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
        except OSError:
            self._unread = False  # nobody is listening any more
