"""A video from http(s): only from allowed hosts, only from public addresses, only within bounds of time and size.

The name is resolved once per hop, every address it has must be public, and the connection goes to the address that
was checked: a name server that answers differently the second time is not asked a second time. Redirects are followed
by hand, so that every hop passes the same checks. Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from .limits import RequestError, ServingLimits

NAME = "video_url"
PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
CHUNK = 256 * 2**10


def resolve(host: str, port: int) -> list[str]:
    """Every address of a host."""
    return [str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def connect(address: str, port: int, timeout_s: float) -> socket.socket:
    """A TCP connection to an address (never a name)."""
    return socket.create_connection((address, port), timeout=timeout_s)


def is_public(address: str) -> bool:
    """Whether an address belongs to the open internet; what embeds another address is judged by that one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


@dataclass(frozen=True)
class Fetcher:
    """Fetches from ``domains`` (``host`` or ``host:port``)."""

    domains: Sequence[str]
    limits: ServingLimits
    max_bytes: int
    resolve: Callable[[str, int], list[str]] = resolve
    connect: Callable[[str, int, float], socket.socket] = connect

    def chunks(self, url: str) -> Iterator[bytes]:
        """The bytes at ``url``. Raises :class:`RequestError`."""
        deadline = time.monotonic() + self.limits.fetch_timeout_s
        for _ in range(self.limits.max_redirects + 1):
            hop = _Hop(self, url, deadline)
            try:
                target = yield from hop.run()
            except RequestError:
                raise
            except (OSError, http.client.HTTPException, ValueError) as error:
                if time.monotonic() >= deadline:
                    raise _late(self.limits) from None
                raise RequestError(f"{NAME}: {hop.host} could not be read ({type(error).__name__}).") from None
            finally:
                hop.close()
            if target is None:
                return
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                raise RequestError(f"{NAME}: {hop.host} redirects from https to an unencrypted address; refused.")
            url = target
        raise RequestError(f"{NAME}: more than {self.limits.max_redirects} redirects.")

    def check(self, url: str) -> tuple[SplitResult, str, int]:
        """(parts, host, port) of an address that may be fetched. Opens nothing. Raises :class:`RequestError`."""
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port or PORTS.get(parts.scheme, 0)
        except ValueError:
            raise RequestError(f"{NAME} is not an address that can be read.") from None
        if parts.scheme not in PORTS or not host or not url.isascii() or any(c <= " " or c == "\\" for c in url):
            raise RequestError(f"{NAME} must be http://HOST/... or https://HOST/..., percent-encoded.")
        if parts.username is not None or parts.password is not None:
            raise RequestError(f"{NAME}: user names and passwords in addresses are not accepted.")
        standard = port == PORTS[parts.scheme]
        if f"{host}:{port}" not in self.domains and not (standard and host in self.domains):
            raise RequestError(
                f"{NAME}: {host[:80]}:{port} is not one of --allowed-media-domains. Send the video itself as "
                "data:video/mp4;base64,... or upload it (POST /v1/files)."
            )
        return parts, host, port

    def address(self, host: str, port: int, timeout_s: float) -> str:
        """The address to connect to, resolved once. Raises :class:`RequestError` unless all are public."""
        found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        # a resolver keeps its own time, so it has a thread of its own, which nobody waits for
        threading.Thread(target=lambda: found.put(self._addresses(host, port)), daemon=True).start()
        try:
            addresses = found.get(timeout=timeout_s)
        except queue.Empty:
            raise _late(self.limits) from None
        if not addresses:
            raise RequestError(f"{NAME}: {host} has no address.")
        if not all(is_public(address) for address in addresses):
            raise RequestError(f"{NAME}: {host} is not on a public address; private networks are not asked.")
        return addresses[0]

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            return self.resolve(host, port)
        except (OSError, UnicodeError):
            return []


def _late(limits: ServingLimits) -> RequestError:
    return RequestError(f"{NAME}: the video did not arrive within {limits.fetch_timeout_s:g} s.")


class _Hop:
    """One request to one checked address. A watchdog ends it at the deadline, however slowly bytes trickle in."""

    def __init__(self, fetcher: Fetcher, url: str, deadline: float) -> None:
        self.fetcher, self.url = fetcher, url
        self.parts, self.host, self.port = fetcher.check(url)
        self.deadline = deadline
        self._socket: socket.socket | None = None
        self._watchdog: threading.Timer | None = None
        self._watched: socket.socket | None = None

    def run(self) -> Generator[bytes, None, str | None]:
        """Yields the body; returns the address of a redirect, or None."""
        fetcher, left_s = self.fetcher, self.deadline - time.monotonic()
        if left_s <= 0:
            raise _late(fetcher.limits)
        address = fetcher.address(self.host, self.port, left_s)
        self._socket = sock = fetcher.connect(address, self.port, max(0.01, self.deadline - time.monotonic()))
        self._watched = socket.socket(fileno=os.dup(sock.fileno()))  # TLS takes the first handle over
        self._watchdog = threading.Timer(max(0.0, self.deadline - time.monotonic()), self._stop)
        self._watchdog.daemon = True
        self._watchdog.start()
        if self.parts.scheme == "https":
            self._socket = sock = ssl.create_default_context().wrap_socket(sock, server_hostname=self.host)
        connection = http.client.HTTPConnection(self.host, self.port)
        connection.sock = sock
        path = (self.parts.path or "/") + (f"?{self.parts.query}" if self.parts.query else "")
        connection.request("GET", path, headers={"Accept-Encoding": "identity", "Connection": "close"})
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308):
            return urljoin(self.url, response.headers.get("Location", ""))
        if response.status != 200:
            raise RequestError(f"{NAME}: {self.host} answered with status {response.status}.")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise RequestError(f"{NAME}: {self.host} sent a compressed body, which was not asked for.")
        too_long = RequestError(f"{NAME}: the video at {self.host} has more than {fetcher.max_bytes} bytes.", 413)
        if (response.length or 0) > fetcher.max_bytes:
            raise too_long
        size = 0
        while chunk := response.read1(CHUNK):
            size += len(chunk)
            if size > fetcher.max_bytes:
                raise too_long
            yield chunk
        if time.monotonic() >= self.deadline:  # the watchdog looks like the end of the body
            raise _late(fetcher.limits)
        if response.length:
            raise RequestError(f"{NAME}: {self.host} stopped in the middle of the video.")
        return None

    def _stop(self) -> None:
        if self._watched is not None:
            try:
                self._watched.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it has ended by itself

    def close(self) -> None:
        """Ends the connection and the watchdog."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        for sock in (self._socket, self._watched):
            if sock is not None:
                sock.close()
