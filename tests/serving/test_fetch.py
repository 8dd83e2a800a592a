"""http(s) videos: allowed hosts, public addresses, pinned; no hop, no second answer of a name server gets around it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from timeexpert.serving.fetch import Fetcher, is_public
from timeexpert.serving.limits import RequestError, ServingLimits

from .conftest import Servers, question
from .test_refusals import refused

PUBLIC = "93.184.215.14"  # never contacted: the tests' connect() leads to this machine


class Handler(BaseHTTPRequestHandler):
    """A video host that misbehaves, by path."""

    server: Host

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Host"], self.path))
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        self.send_response(404 if self.path == "/absent" else 200)
        if self.path == "/gzip":
            self.send_header("Content-Encoding", "gzip")
        if self.path == "/huge":
            self.send_header("Content-Length", str(10**12))
        if self.path == "/short":
            self.send_header("Content-Length", str(len(self.server.video) + 1))
        self.end_headers()
        try:
            if self.path == "/trickle":
                for _ in range(1000):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.01)
            elif self.path == "/endless":
                for _ in range(1000):
                    self.wfile.write(bytes(65536))
            elif self.path != "/empty":
                self.wfile.write(self.server.video)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Silent."""


class Host(ThreadingHTTPServer):
    """Records every (Host header, path) and every address that was connected to."""

    def __init__(self, video: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.video = video
        self.asked: list[tuple[str, str]] = []
        self.connected: list[tuple[str, int]] = []

    def connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
        self.connected.append((address, port))
        return socket.create_connection(("127.0.0.1", self.server_port), timeout=timeout_s)


@pytest.fixture
def host(video: Path) -> Iterator[Host]:
    yield from running(Host(video.read_bytes()))


def running(host: Host) -> Iterator[Host]:
    """The host, answering in a thread of its own."""
    thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield host
    host.shutdown()
    thread.join()
    host.server_close()


def names(**addresses: list[str]) -> Callable[[str, int], list[str]]:
    """A name server: ``a_org=[...]`` is a.org; asked again, it gives the next address, as rebinding does."""
    left = {name.replace("_", "."): iter(rows) for name, rows in addresses.items()}

    def resolve(name: str, port: int) -> list[str]:
        address = next(left[name], None)
        if address is None:
            raise socket.gaierror("no such name")
        return address.split()

    return resolve


def fetcher(host: Host, resolve: Callable[[str, int], list[str]], max_bytes: int = 10**7, **limits: Any) -> Fetcher:
    domains = ("a.org", "b.org", "c.org:8443", "127.0.0.1", "[::1]", "localhost")
    return Fetcher(domains, ServingLimits(**limits), max_bytes, resolve, host.connect)


def test_a_video_of_an_allowed_host_is_answered(host: Host, servers: Servers) -> None:
    client = servers.start(
        {"allowed_domains": ("a.org",)}, fetcher=fetcher(host, names(a_org=[PUBLIC, PUBLIC], b_org=[PUBLIC]))
    )
    reply = client.ask(question("http://a.org/clip.mp4?x=1"))
    assert reply.status == 200 and reply.body["choices"][0]["message"]["duration_s"] == 4.0
    assert host.asked == [("a.org", "/clip.mp4?x=1")] and host.connected == [(PUBLIC, 80)]
    assert not list(client.service.store.folder.iterdir())  # gone with its answer
    refused(client.ask(question("http://a.org/empty")), 400, "the video is empty (0 bytes)")
    assert not list(client.service.store.folder.iterdir())


def test_other_hosts_are_not_even_resolved(host: Host) -> None:
    fetch = fetcher(host, names())
    for url in (
        "http://evil.org/v.mp4",
        "http://a.org.evil.org/v.mp4",
        "http://xa.org/v.mp4",
        "http://a.org:8080/v.mp4",
        "https://a.org:80/v.mp4",
        "http://c.org/v.mp4",
        "http://169.254.169.254/latest",
        "http://[fd00::1]/v.mp4",
        "http://2130706433/",
        "http://0x7f.1/",
    ):
        with pytest.raises(RequestError, match="is not one of --allowed-media-domains"):
            list(fetch.chunks(url))
    for url, words in (
        ("http://a.org@evil.org/v.mp4", "user names and passwords"),
        ("http://user:pw@a.org/v.mp4", "user names and passwords"),
        ("http://a.org\\@evil.org/v.mp4", "must be http://HOST/"),
        ("http://a.org/ x", "must be http://HOST/"),
        ("http://a.org/\r\nX: y", "must be http://HOST/"),
        ("http://а.org/v.mp4", "must be http://HOST/"),  # a Cyrillic letter
        ("http:///v.mp4", "must be http://HOST/"),
        ("http://a.org:99999/", "not an address that can be read"),
        ("http://[::1/", "not an address that can be read"),
    ):
        with pytest.raises(RequestError, match=words):
            list(fetch.chunks(url))
    assert host.connected == []


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *("255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:127.0.0.1"),
        *("64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:0:0:0:0:80ff:fffe", "64:ff9b::a9fe:a9fe", "::ffff:0:10.0.0.1"),
    ],
)
def test_a_name_that_leads_to_a_private_address_is_refused(host: Host, address: str) -> None:
    assert not is_public(address)
    for answer in (address, f"{PUBLIC} {address}", f"{address} {PUBLIC}"):
        with pytest.raises(RequestError, match="a.org is not on a public address"):
            list(fetcher(host, names(a_org=[answer])).chunks("http://a.org/v.mp4"))
    assert host.connected == []


def test_public_addresses_are_public() -> None:
    assert all(is_public(a) for a in (PUBLIC, "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8"))


def test_a_listed_loopback_address_is_refused_all_the_same(host: Host) -> None:
    for url in ("http://127.0.0.1/v.mp4", "http://localhost/v.mp4"):
        with pytest.raises(RequestError, match="is not on a public address"):
            list(Fetcher(("127.0.0.1", "localhost"), ServingLimits(), 10**6, connect=host.connect).chunks(url))
    assert host.connected == []


def test_a_name_that_changes_its_address_is_asked_once_per_hop(host: Host, video: Path) -> None:
    rebinding = fetcher(host, names(a_org=[PUBLIC, "127.0.0.1"]))
    assert b"".join(rebinding.chunks("http://a.org/v.mp4")) == video.read_bytes()
    assert host.connected == [(PUBLIC, 80)]  # the address that was checked
    again = fetcher(host, names(a_org=[PUBLIC, "127.0.0.1"]))
    with pytest.raises(RequestError, match="a.org is not on a public address"):
        list(again.chunks("http://a.org/to?http://a.org/v.mp4"))  # the second hop asks again, and is checked again


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("http://127.0.0.1/v.mp4", "127.0.0.1 is not on a public address"),
        ("http://localhost/v.mp4", "localhost is not on a public address"),
        ("http://10.0.0.1/v.mp4", "is not one of --allowed-media-domains"),
        ("http://169.254.169.254/latest/meta-data", "is not one of --allowed-media-domains"),
        ("http://evil.org/v.mp4", "is not one of --allowed-media-domains"),
        ("//evil.org/v.mp4", "is not one of --allowed-media-domains"),
        ("file:///etc/passwd", "must be http://HOST/"),
        ("data:video/mp4;base64,AAAA", "must be http://HOST/"),
        ("gopher://a.org/", "must be http://HOST/"),
        ("http://b.org/v.mp4", "b.org is not on a public address"),
    ],
)
def test_every_redirect_is_checked_again(host: Host, target: str, words: str) -> None:
    names_ = names(a_org=[PUBLIC], b_org=["192.168.0.1"], localhost=["127.0.0.1"], **{"127_0_0_1": ["127.0.0.1"]})
    with pytest.raises(RequestError, match=words):
        list(fetcher(host, names_).chunks(f"http://a.org/to?{target}"))
    assert host.connected == [(PUBLIC, 80)] and len(host.asked) == 1


def test_redirects_are_followed_and_counted(host: Host, video: Path) -> None:
    fetch = fetcher(host, names(a_org=[PUBLIC] * 2, b_org=[PUBLIC]))
    assert b"".join(fetch.chunks("http://a.org/to?http://b.org/to?//a.org/v.mp4")) == video.read_bytes()
    with pytest.raises(RequestError, match="more than 3 redirects"):
        list(fetcher(host, lambda *_: [PUBLIC]).chunks("http://a.org" + "/to?" * 9))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("absent", "answered with status 404"),
        ("gzip", "compressed body"),  # what it would unpack to is never found out
        ("huge", "has more than 100000 bytes"),
        ("endless", "has more than 100000 bytes"),
        ("short", "stopped in the middle"),
        ("trickle", "did not arrive within 0.3 s"),
    ],
)
def test_what_a_host_sends_has_bounds(host: Host, path: str, words: str) -> None:
    fetch = fetcher(host, names(a_org=[PUBLIC]), 100_000, fetch_timeout_s=0.3 if path == "trickle" else 30.0)
    with pytest.raises(RequestError, match=words):
        list(fetch.chunks(f"http://a.org/{path}"))


def test_a_host_without_a_certificate_is_refused(host: Host) -> None:
    with pytest.raises(RequestError, match=r"a.org could not be read \(SSLError\)"):
        list(fetcher(host, names(a_org=[PUBLIC])).chunks("https://a.org/v.mp4"))
    with pytest.raises(RequestError, match="b.org has no address"):
        list(fetcher(host, names(b_org=[])).chunks("http://b.org/v.mp4"))
