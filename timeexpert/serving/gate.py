"""What every request passes first: a request id, the key, the Host and Origin headers; and the log line at its end.

Whatever goes wrong further inside is answered here as ``{"error": {"message", "type"}}``; a failure of the server is
logged with its traceback and answered without it.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .headers import SAFE_HEADERS
from .limits import RequestError, disk_full, stopping
from .metrics import Metrics
from .settings import ServerSettings

LOG = logging.getLogger("timeexpert.serving")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PROBES = ("/healthz", "/readyz", "/metrics")  # answered to the very end


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


def is_page(path: str) -> bool:
    """The page's own files, which are the same for everybody: it asks for the key, so it loads without one."""
    return path == "/" or path.startswith("/page/")


def error_response(error: RequestError) -> JSONResponse:
    """OpenAI's shape of an error."""
    headers = {**({"WWW-Authenticate": "Bearer"} if error.status == 401 else {}), **error.headers}
    return JSONResponse({"error": {"message": str(error), "type": error.kind}}, error.status, headers)


class Gate:
    """ASGI middleware around the routes. ``draining`` says whether the server is about to stop."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics, draining: Callable[[], bool]) -> None:
        self.app, self.settings, self.metrics, self.draining = app, settings, metrics, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, began = Headers(scope=scope), time.monotonic()
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        self.metrics.open_requests += 1
        try:
            response = await self._guarded(scope, headers, receive, send_with_headers, request_id)
            if response is not None and not status:
                await response(scope, receive, send_with_headers)
        finally:
            self.metrics.open_requests -= 1
            route = self.metrics.paths.get(scope.get("endpoint"), "other")
            seconds = time.monotonic() - began
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.answered(method, route, status or 499, seconds)
            shown = ascii(scope["path"])[1:-1][:200]
            LOG.info("%s %s %s %s %.3f s", request_id, method, shown, status or "client left", seconds)

    async def _guarded(self, scope: Scope, headers: Headers, receive: Receive, send: Send, request_id: str) -> Any:
        """Runs the routes; a response where something was refused or failed."""
        try:
            self._check(scope, headers)
            if self.draining() and scope["path"] not in PROBES:
                raise stopping()
            await self.app(scope, receive, send)
        except RequestError as error:
            return error_response(error)
        except (ClientLeft, ClientDisconnect):
            return None
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                LOG.error("%s: %s", request_id, error)
                return error_response(disk_full())
            LOG.exception("%s failed", request_id)
            return error_response(RequestError("the server failed; its log says why.", 500, "server_error"))
        return None

    def _check(self, scope: Scope, headers: Headers) -> None:
        settings = self.settings
        if settings.api_key is None:
            if settings.loopback:
                self._check_host(headers)
            self._check_origin(scope, headers)
        elif not is_page(scope["path"]) and not settings.accepts(headers.get("authorization", "")):
            raise RequestError(
                "wrong or missing API key: send the header Authorization: Bearer KEY.", 401, "authentication_error"
            )

    def _check_host(self, headers: Headers) -> None:
        """A page in a browser can point its own name at 127.0.0.1 and ask from there; it has no key to send."""
        host = headers.get("host", "localhost").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        try:
            local = name == "localhost" or ipaddress.ip_address(name).is_loopback
        except ValueError:
            local = False
        if not local:
            raise RequestError("the Host header must be localhost or 127.0.0.1, as the server listens there.", 403)

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """A form of any web page can send uploads here; browsers say then where it comes from."""
        origin = headers.get("origin")
        if origin is None or scope["method"] in SAFE_METHODS or origin in self.settings.cors_origins:
            return
        try:
            place = urlsplit(origin).netloc
        except ValueError:
            place = ""
        if not place or place.lower() != headers.get("host", "").lower():
            raise RequestError(
                "requests from other web pages are refused; whoever runs the server can allow one with --cors-origin.",
                403,
            )


class SafeHeaders:
    """ASGI middleware around everything: adds :data:`SAFE_HEADERS` where a route did not set its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)
