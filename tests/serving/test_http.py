"""The wire: keys, sizes, slow clients, too many of them, and requests that are no HTTP."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from timeexpert.serving.engine import Busy

from .conftest import Client, Servers, data_url, question
from .test_refusals import refused


def raw(client: Client, data: bytes, timeout_s: float = 10.0) -> bytes:
    """Send bytes as they are; what comes back until the server closes."""
    with socket.create_connection(client.address, timeout=timeout_s) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def head(*lines: str, start: str = "POST /v1/chat/completions HTTP/1.1") -> bytes:
    return "\r\n".join([start, "Host: localhost", "Connection: close", *lines, "", ""]).encode()


@pytest.fixture(scope="module")
def locked(servers: Servers) -> Client:
    """A server with a key."""
    return servers.start({"api_key": "open sesame"})


# -- keys


@pytest.mark.parametrize(
    "path",
    ["/healthz", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/files", "/samples", "/docs", "//"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_the_key_is_asked_for_on_every_path_and_method(locked: Client, method: str, path: str) -> None:
    for header in ({}, {"Authorization": "Bearer open sesam"}, {"Authorization": "open sesame"}):
        reply = locked.send(method, path, **header)
        refused(reply, 401, "wrong or missing API key", "authentication_error")
        assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_the_page_itself_loads_without_a_key_as_it_asks_for_it(locked: Client) -> None:
    assert locked.fetch("GET", "/page/absent.js")[0].status == 404
    assert locked.fetch("GET", "/page/..%2fapp.py")[0].status == 404
    assert locked.fetch("GET", "/page/../v1/models")[0].status == 404  # the path is not tidied after the check


def test_the_right_key_is_let_in(locked: Client, video: Path) -> None:
    key = {"Authorization": "Bearer open sesame"}
    assert locked.send("GET", "/v1/models", **key).status == 200
    assert locked.ask(question(data_url(video.read_bytes())), **key).status == 200


def test_a_wrong_key_is_refused_before_the_body_is_read(locked: Client) -> None:
    reply = locked.ask(b"x" * (8 << 20), Authorization="Bearer wrong")
    refused(reply, 401, "wrong or missing API key", "authentication_error")


# -- paths, methods, hosts


def test_unknown_paths_and_methods_are_refused_in_the_same_shape(client: Client) -> None:
    refused(client.send("GET", "/v1/completions"), 404, "nothing is served at this path: GET /v1/completions")
    refused(client.send("GET", "/v1/models/../../etc/passwd"), 404, "nothing is served at this path")
    refused(client.send("GET", "/docs"), 404, "nothing is served at this path")
    for method in ("GET", "PUT", "BREW"):
        reply = client.send(method, "/v1/chat/completions")
        refused(reply, 405, f"this path takes POST, not {method}")
        assert reply.headers["Allow"] == "POST"
    assert client.send("PUT", "/v1/files").headers["Allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[::2]"])
def test_a_page_that_points_its_name_at_this_machine_is_refused(client: Client, host: str) -> None:
    refused(client.send("GET", "/v1/models", Host=host), 403, "the Host header must be localhost or 127.0.0.1")


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
def test_this_machines_own_names_are_let_in(client: Client, host: str) -> None:
    assert client.send("GET", "/v1/models", Host=host).status == 200


def test_a_form_of_a_web_page_is_refused(client: Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        refused(client.ask(b"{}", Content_Type=kind), 415, "Content-Type must be application/json")


def test_an_upload_from_another_web_page_is_refused(client: Client) -> None:
    for origin in ("https://evil.example", "null", f"http://localhost:{client.address[1]}", "http://[", ""):
        refused(client.upload(b"x", Origin=origin), 403, "requests from other web pages are refused")
    assert client.upload(b"x", Origin=client.url).status == 200


def test_other_origins_are_let_in_only_where_they_are_named(client: Client, servers: Servers) -> None:
    asked = {"Origin": "https://tool.example", "Access-Control-Request-Method": "POST"}
    shut = client.send("OPTIONS", "/v1/chat/completions", **asked)
    assert shut.status == 405 and "Access-Control-Allow-Origin" not in shut.headers
    opened = servers.start({"cors_origins": ("https://tool.example",), "api_key": "k"})
    response, _ = opened.fetch("OPTIONS", "/v1/chat/completions", **asked)
    assert response.status == 200 and response.headers["Access-Control-Allow-Origin"] == "https://tool.example"
    response, _ = opened.fetch("OPTIONS", "/v1/chat/completions", **{**asked, "Origin": "https://evil.example"})
    assert response.status == 400 and "Access-Control-Allow-Origin" not in response.headers


def test_nothing_tells_the_versions(client: Client) -> None:
    response, _ = client.fetch("GET", "/healthz")
    assert "Server" not in response.headers and "uvicorn" not in str(response.headers).lower()


def test_a_request_has_an_id_in_its_answer_and_in_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "timeexpert.serving")
    assert client.send("GET", "/healthz", X_Request_Id="mine-1").headers["X-Request-Id"] == "mine-1"
    forged = client.send("GET", "/v1/%0aforged%1b[31m", X_Request_Id="a b\tc").headers["X-Request-Id"]
    assert len(forged) == 32 and forged.isalnum()
    for start in ("mine-1 GET /healthz 200 ", forged + " GET /v1/\\nforged\\x1b[31m 404 "):
        # a line is written when its answer is on its way, so the answer may be here before it
        until(lambda start=start: any(record.getMessage().startswith(start) for record in list(caplog.records)))


# -- sizes


def test_a_body_above_the_limit_is_refused_unread(servers: Servers) -> None:
    small = servers.start(max_body_bytes=1000)
    refused(small.ask(b" " * (4 << 20)), 413, "the body has 4194304 bytes; at most 1000 are read (--max-body-mb)")
    refused(small.ask(b" " * 1001), 413, "the body has 1001 bytes")
    refused(small.ask(b" " * 1000), 400, "not JSON")


@pytest.mark.parametrize(
    ("lines", "status", "words"),
    [
        (["Content-Length: -1"], 400, "not a request that can be read"),
        (["Content-Length: 1e3"], 400, "not a request that can be read"),
        (["Content-Length: 5", "Content-Length: 6"], 400, "not a request that can be read"),
        (["Content-Length: " + "9" * 5000], 400, "not a request that can be read"),
        (["Content-Length: " + "9" * 19], 413, "at most 67108864 are read"),
        (["Transfer-Encoding: chunked"], 411, "send the body with one Content-Length, not in chunks"),
        (["Transfer-Encoding: chunked", "Content-Length: 5"], 411, "not in chunks"),
        ([], 411, "send the body with one Content-Length"),
    ],
)
def test_a_body_has_one_known_length(client: Client, lines: list[str], status: int, words: str) -> None:
    answer = raw(client, head("Content-Type: application/json", *lines))
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and words.encode() in answer


def raw_and_stop(client: Client, data: bytes) -> bytes:
    """Like :func:`raw`, but says at once that nothing more will be sent."""
    with socket.create_connection(client.address, timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 70_000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + (b"A: " + b"x" * 60_000 + b"\r\n") * 3, 400),  # no line too long, all of them are
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00 TLS here \r\n\r\n", 400),
    ],
)
def test_what_is_no_request_gets_an_error_of_the_same_shape(client: Client, data: bytes, status: int) -> None:
    answer = raw(client, data)
    top, _, body = answer.partition(b"\r\n\r\n")
    assert f" {status} ".encode() in top.split(b"\r\n")[0]
    assert set(json.loads(body)["error"]) == {"message", "type"}


def test_100_continue_is_said_only_when_the_body_is_wanted(client: Client, locked: Client) -> None:
    asked = ("Content-Type: application/json", "Content-Length: 2", "Expect: 100-continue")
    assert raw(client, head(*asked) + b"{}").startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 ")
    assert raw(locked, head(*asked)).startswith(b"HTTP/1.1 401 ")


# -- time


def test_headers_that_trickle_in_are_given_up(servers: Servers) -> None:
    hasty = servers.start(header_timeout_s=0.3)
    with socket.create_connection(hasty.address, timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        answer, began = b"", time.monotonic()
        while not answer:  # one byte at a time resets no clock
            assert time.monotonic() - began < 10
            connection.sendall(b"x")
            readable, _, _ = select.select([connection], [], [], 0.05)
            answer = connection.recv(65536) if readable else b""
        assert answer.startswith(b"HTTP/1.1 408 ") and b"the headers did not arrive within 0.3 s." in answer
        with pytest.raises(OSError):
            for _ in range(100):
                connection.sendall(b"x")
                time.sleep(0.05)


def test_a_body_that_does_not_arrive_is_given_up(servers: Servers) -> None:
    hasty = servers.start(body_timeout_s=0.2, linger_s=0.1)
    answer = raw(hasty, head("Content-Type: application/json", "Content-Length: 10") + b"{")
    assert answer.startswith(b"HTTP/1.1 408 ") and b"the body did not arrive within 0.2 s" in answer
    assert hasty.send("GET", "/healthz").status == 200


def test_a_body_that_trickles_in_is_given_up(servers: Servers) -> None:
    hasty = servers.start(body_timeout_s=0.3, linger_s=0.1)
    with socket.create_connection(hasty.address, timeout=0.05) as connection:
        connection.sendall(head("Content-Type: application/json", "Content-Length: 1000") + b"{")
        for _ in range(100):
            try:
                answer = connection.recv(65536)
                break
            except TimeoutError:
                connection.sendall(b" ")
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_in_the_middle_of_the_body_frees_its_place(servers: Servers, video: Path) -> None:
    own = servers.start(max_pending_body_bytes=40_000_000)
    with socket.create_connection(own.address, timeout=10) as connection:
        connection.sendall(head("Content-Type: application/json", "Content-Length: 39999999") + b"{")
        until(lambda: own.service.bodies.used_bytes == 39_999_999)
        large = own.ask(b" " * 40_000)
        refused(large, 429, "too many large requests are being read; try again soon.", "overloaded_error")
        assert large.headers["Retry-After"] == "1"
    until(lambda: own.service.bodies.used_bytes == 0)
    assert own.ask(question(data_url(video.read_bytes()))).status == 200


# -- many


def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    for _ in range(6000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 60 s")


class Held:
    """An engine whose answers wait until they are let go; two questions may wait."""

    def __init__(self, engine: Any) -> None:
        self.inner = engine
        self.tickets: list[HeldTicket] = []
        self.released = threading.Event()

    def submit(self, question: Any) -> HeldTicket:
        if sum(not ticket.cancelled for ticket in self.tickets) >= 2:
            raise Busy(2, 7)
        self.tickets.append(HeldTicket(self, question))
        return self.tickets[-1]

    def stats(self) -> dict[str, float]:
        return {}


class HeldTicket:
    def __init__(self, engine: Held, question: Any) -> None:
        self.engine, self.question, self.cancelled = engine, question, False

    def cancel(self) -> None:
        self.cancelled = True

    def result(self, timeout: float | None = None) -> Any:
        until(lambda: self.engine.released.is_set() or self.cancelled)
        return self.engine.inner.submit(self.question).result(timeout)

    def events(self) -> Iterator[str]:
        yield "one piece"
        yield f"\n{self.result().prediction.duration_s}"


@pytest.fixture
def held(servers: Servers) -> Iterator[tuple[Held, Client]]:
    engine = Held(servers.start().engine)
    yield engine, servers.start(engine=engine, max_connections=4, answer_timeout_s=30.0)
    engine.released.set()


def test_when_the_queue_is_full_the_next_is_told_to_come_again(held: tuple[Held, Client], video: Path) -> None:
    engine, client = held
    body = question(data_url(video.read_bytes()))
    statuses: list[int] = []
    waiting = [threading.Thread(target=lambda: statuses.append(client.ask(body).status)) for _ in range(2)]
    for thread in waiting:
        thread.start()
    until(lambda: len(engine.tickets) == 2)
    kept = client.service.store.used_bytes
    reply = client.ask(question(data_url(b"another video")))
    refused(reply, 429, "2 questions wait already; ask again in 7 s.", "overloaded_error")
    assert client.service.store.used_bytes == kept  # its video is gone
    assert reply.headers["Retry-After"] == "7"
    assert client.send("GET", "/healthz").status == 200  # being busy is not being ill
    engine.released.set()
    for thread in waiting:
        thread.join(30)
    assert statuses == [200, 200]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_question(held: tuple[Held, Client], video: Path, stream: bool) -> None:
    engine, client = held
    body = json.dumps(question(data_url(video.read_bytes()), stream=stream)).encode()
    with socket.create_connection(client.address, timeout=10) as connection:
        connection.sendall(head("Content-Type: application/json", f"Content-Length: {len(body)}") + body)
        until(lambda: len(engine.tickets) == 1)
        answer = b""
        while stream and b"one piece" not in answer:
            answer += connection.recv(65536)
        assert len(list(client.service.store.folder.iterdir())) == 1
    until(lambda: engine.tickets[0].cancelled)
    until(lambda: not list(client.service.store.folder.iterdir()))


def test_an_answer_that_takes_too_long_is_given_up(held: tuple[Held, Client], servers: Servers, video: Path) -> None:
    engine, _ = held
    hasty = servers.start(engine=engine, answer_timeout_s=0.2)
    refused(hasty.ask(question(data_url(video.read_bytes()))), 503, "no answer within 0.2 s", "overloaded_error")
    assert engine.tickets[0].cancelled
    *_, error = hasty_chunks(hasty, video)
    assert "no answer within 0.2 s" in error["error"]["message"]


def hasty_chunks(client: Client, video: Path) -> list[Any]:
    body = json.dumps(question(data_url(video.read_bytes()), stream=True)).encode()
    _, data = client.fetch("POST", "/v1/chat/completions", body)
    return [json.loads(event[6:]) for event in data.decode().strip().split("\n\n")]


def test_connections_are_counted_too(held: tuple[Held, Client]) -> None:
    _, client = held
    idle = [socket.create_connection(client.address, timeout=10) for _ in range(4)]
    try:
        reply = None
        for _ in range(50):  # until all four are accepted
            reply = client.send("GET", "/healthz")
            if reply.status == 503:
                break
        assert reply is not None
        refused(reply, 503, "too many connections; try again soon.", "overloaded_error")
    finally:
        for connection in idle:
            connection.close()
    until(lambda: client.send("GET", "/healthz").status == 200)
