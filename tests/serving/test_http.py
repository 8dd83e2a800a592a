"""The wire: keys, sizes, slow clients, too many of them, and requests that are no HTTP."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from timeexpert.serving.server import Access

from .conftest import Client, Servers, data_url, question
from .test_refusals import refused


def raw(client: Client, data: bytes, timeout_s: float = 10.0) -> bytes:
    """Send bytes as they are; what comes back until the server closes."""
    host, port = client.server.server_address[:2]
    with socket.create_connection((str(host), int(port)), timeout=timeout_s) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def head(*lines: str, start: str = "POST /v1/chat/completions HTTP/1.1") -> bytes:
    return "\r\n".join([start, "Host: localhost", *lines, "", ""]).encode()


@pytest.fixture(scope="module")
def locked(servers: Servers) -> Client:
    """A server with a key."""
    return servers.start(Access(api_key="open sesame"))


# -- keys


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/chat/completions", "/", "/docs", "/v1/models?x=1"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_the_key_is_asked_for_on_every_path_and_method(locked: Client, method: str, path: str) -> None:
    for header in ({}, {"Authorization": "Bearer open sesam"}, {"Authorization": "open sesame"}):
        reply = locked.send(method, path, **header)
        refused(reply, 401, "wrong or missing API key", "authentication_error")
        assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_the_right_key_is_let_in(locked: Client, video: Path) -> None:
    key = {"Authorization": "Bearer open sesame"}
    assert locked.send("GET", "/v1/models", **key).status == 200
    assert locked.ask(question(data_url(video.read_bytes())), **key).status == 200


def test_a_wrong_key_is_refused_before_the_body_is_read(locked: Client) -> None:
    reply = locked.ask(b"x" * (8 << 20), Authorization="Bearer wrong")
    refused(reply, 401, "wrong or missing API key", "authentication_error")


# -- paths, methods, hosts


def test_unknown_paths_and_methods_are_refused_in_the_same_shape(client: Client) -> None:
    refused(client.send("GET", "/v1/completions"), 404, "there are /health, /v1/models, /v1/chat/completions")
    refused(client.send("GET", "/v1/models/../../etc/passwd"), 404, "nothing is served at this path")
    for method in ("GET", "PUT", "BREW"):
        reply = client.send(method, "/v1/chat/completions")
        refused(reply, 405, f"/v1/chat/completions takes POST, not {method}")
        assert reply.headers["Allow"] == "POST"
    assert client.send("HEAD", "/health").status == 405


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[::2]"])
def test_a_page_that_points_its_name_at_this_machine_is_refused(client: Client, host: str) -> None:
    refused(client.send("GET", "/v1/models", Host=host), 403, "the Host header must be localhost or 127.0.0.1")


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
def test_this_machines_own_names_are_let_in(client: Client, host: str) -> None:
    assert client.send("GET", "/v1/models", Host=host).status == 200


def test_a_form_of_a_web_page_is_refused(client: Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        refused(client.ask(b"{}", Content_Type=kind), 415, "Content-Type must be application/json")


def test_nothing_tells_the_versions(client: Client) -> None:
    assert client.send("GET", "/health").headers["Server"] == "timeexpert"


# -- sizes


def test_a_body_above_the_limit_is_refused_unread(servers: Servers) -> None:
    small = servers.start(max_body_bytes=1000)
    refused(small.ask(b" " * (4 << 20)), 413, "the body has 4194304 bytes; at most 1000 are read (--max-body-mb)")
    refused(small.ask(b" " * 1001), 413, "the body has 1001 bytes")
    refused(small.ask(b" " * 1000), 400, "not JSON")


@pytest.mark.parametrize(
    ("lines", "status", "words"),
    [
        (["Content-Length: -1"], 400, "Content-Length must be one whole number"),
        (["Content-Length: 1e3"], 400, "Content-Length must be one whole number"),
        (["Content-Length: 5", "Content-Length: 6"], 400, "Content-Length must be one whole number"),
        (["Content-Length: " + "9" * 5000], 413, "at most 67108864 are read"),
        (["Transfer-Encoding: chunked"], 411, "send the body with one Content-Length, not in chunks"),
        (["Transfer-Encoding: chunked", "Content-Length: 5"], 411, "not in chunks"),
        ([], 411, "send the body with one Content-Length"),
    ],
)
def test_a_body_has_one_known_length(client: Client, lines: list[str], status: int, words: str) -> None:
    answer = raw_and_stop(client, head("Content-Type: application/json", *lines))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and words.encode() in answer


def raw_and_stop(client: Client, data: bytes) -> bytes:
    """Like :func:`raw`, but says at once that nothing more will be sent."""
    host, port = client.server.server_address[:2]
    with socket.create_connection((str(host), int(port)), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: x\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + (b"A: " + b"x" * 60_000 + b"\r\n") * 3, 431),  # no line too long, all of them are
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"\x16\x03\x01\x02\x00 TLS here \r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
    ],
)
def test_what_is_no_request_gets_an_error_of_the_same_shape(client: Client, data: bytes, status: int) -> None:
    answer = raw_and_stop(client, data)
    top, _, body = answer.partition(b"\r\n\r\n")
    assert f" {status} ".encode() in top.split(b"\r\n")[0]
    assert set(json.loads(body)["error"]) == {"message", "type"}


def test_100_continue_is_said_only_when_the_body_is_wanted(client: Client, locked: Client) -> None:
    asked = ("Content-Type: application/json", "Content-Length: 2", "Expect: 100-continue")
    assert raw(client, head(*asked) + b"{}").startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 ")
    assert raw_and_stop(locked, head(*asked)).startswith(b"HTTP/1.1 401 ")


# -- time


def test_headers_that_trickle_in_are_given_up(servers: Servers) -> None:
    hasty = servers.start(header_timeout_s=0.3)
    host, port = hasty.server.server_address[:2]
    with socket.create_connection((str(host), int(port)), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        with pytest.raises(OSError):
            for _ in range(100):  # one byte at a time resets no clock
                connection.sendall(b"x")
                time.sleep(0.05)


def test_a_body_that_does_not_arrive_is_given_up(servers: Servers) -> None:
    hasty = servers.start(body_timeout_s=0.2, linger_s=0.1)
    answer = raw(hasty, head("Content-Type: application/json", "Content-Length: 10") + b"{")
    assert answer.startswith(b"HTTP/1.1 408 ") and b"the body did not arrive within 0.2 s" in answer
    assert hasty.send("GET", "/health").status == 200


def test_a_body_that_trickles_in_is_given_up(servers: Servers) -> None:
    hasty = servers.start(body_timeout_s=0.3, linger_s=0.1)
    host, port = hasty.server.server_address[:2]
    with socket.create_connection((str(host), int(port)), timeout=0.05) as connection:
        connection.sendall(head("Content-Type: application/json", "Content-Length: 1000") + b"{")
        for _ in range(100):
            try:
                answer = connection.recv(65536)
                break
            except TimeoutError:
                connection.sendall(b" ")
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_in_the_middle_of_the_body_frees_its_place(servers: Servers, video: Path) -> None:
    own = servers.start(max_concurrent=1)
    assert raw_and_stop(own, head("Content-Type: application/json", "Content-Length: 10") + b"{") == b""
    assert own.ask(question(data_url(video.read_bytes()))).status == 200


# -- many


class Held:
    """An engine whose answers wait until they are let go."""

    def __init__(self, engine: Any) -> None:
        self.inner, self.limits, self.name = engine, engine.limits, engine.name
        self.entered, self.released = threading.Semaphore(0), threading.Event()

    def answer(self, question: Any) -> Any:
        self.entered.release()
        assert self.released.wait(30)
        return self.inner.answer(question)


@pytest.fixture
def held(servers: Servers) -> Iterator[tuple[Held, Client]]:
    engine = Held(servers.start(max_concurrent=2, max_connections=4).server.engine)
    yield engine, servers.start(engine=engine)  # type: ignore[arg-type]
    engine.released.set()


def test_when_every_place_is_taken_the_next_is_told_to_come_again(held: tuple[Held, Client], video: Path) -> None:
    engine, client = held
    body = question(data_url(video.read_bytes()))
    statuses: list[int] = []
    waiting = [threading.Thread(target=lambda: statuses.append(client.ask(body).status)) for _ in range(2)]
    for thread in waiting:
        thread.start()
        assert engine.entered.acquire(timeout=10)
    reply = client.ask(body)
    refused(reply, 503, "2 requests are being answered; try again soon.", "overloaded_error")
    assert reply.headers["Retry-After"] == "1"
    assert client.send("GET", "/health").status == 200  # being busy is not being ill
    assert not client.server.finish_requests(0.05)
    engine.released.set()
    for thread in waiting:
        thread.join(30)
    assert statuses == [200, 200]


def test_connections_are_counted_too(held: tuple[Held, Client]) -> None:
    _, client = held
    host, port = client.server.server_address[:2]
    idle = [socket.create_connection((str(host), int(port)), timeout=10) for _ in range(4)]
    try:
        for _ in range(50):  # until all four are accepted
            reply = client.send("GET", "/health")
            if reply.status == 503:
                break
        refused(reply, 503, "too many connections; try again soon.", "overloaded_error")
    finally:
        for connection in idle:
            connection.close()
    for _ in range(50):
        if client.send("GET", "/health").status == 200:
            return
        time.sleep(0.02)
    raise AssertionError("closed connections still count")
