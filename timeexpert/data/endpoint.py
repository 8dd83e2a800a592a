"""A client for any OpenAI-compatible chat endpoint: cached, concurrent, bounded in time, size and retries.

Only the address that the user gives is asked; redirects are not followed, so that the key goes nowhere else. The key
comes from an environment variable and is written nowhere. Every answer is appended to a JSONL cache under the hash of
its request: a run that was cut off, or is repeated, pays for nothing twice.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from timeexpert.data.answer_cache import AnswerCache
from timeexpert.errors import UserError

Message = dict[str, Any]  # of a chat: role, and content as text or as a list of parts (text, image_url)
MAX_RESPONSE_BYTES = 4 * 2**20
MAX_WAIT_S = 60.0  # between two tries, whatever Retry-After says
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
T = TypeVar("T")
FATAL = (301, 302, 307, 308, 401, 403, 404, 405)  # every other request would end the same way


class EndpointError(UserError):
    """An endpoint that cannot be used at all. What was answered so far is in the cache."""


class RequestFailed(Exception):
    """One request without an answer after ``tries`` tries; the others go on.

    ``refused``: the endpoint answered that it does not take this request (HTTP 400, for one).
    """

    def __init__(self, reason: str, tries: int, refused: bool = False) -> None:
        super().__init__(reason)
        self.tries, self.refused = tries, refused


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """Where to ask. ``base_url`` ends before ``/chat/completions``, for example ``http://localhost:8000/v1``.

    ``key_env`` names the environment variable with the API key; without it none is sent. ``timeout_s`` is for one try,
    from connecting to the last byte. ``retries`` come after the first try, ``backoff_s`` and its doubles apart.
    Prices are per million tokens in any one currency. ``max_consecutive_failures`` requests in a row without an answer
    end the run; those that the endpoint refused count only until it has answered one.
    """

    base_url: str
    model: str
    key_env: str | None = None
    timeout_s: float = 60.0
    retries: int = 4
    backoff_s: float = 1.0
    concurrency: int = 4
    max_tokens: int = 2048
    temperature: float = 0.0
    price_per_million_prompt_tokens: float | None = None
    price_per_million_completion_tokens: float | None = None
    max_consecutive_failures: int = 10

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or parts.username is not None or parts.query or parts.fragment:
            raise UserError(
                f"base_url ({self.base_url!r}) must be http:// or https:// with a host and a path, without name, "
                "password or query; for example http://localhost:8000/v1. The key comes from key_env."
            )
        if not self.model.strip():
            raise UserError("model is empty; it must be a name that the endpoint knows.")
        if not 0 < self.timeout_s <= 3600:
            raise UserError(f"timeout_s ({self.timeout_s}) must be above 0 and at most 3600 seconds.")
        if not 0 <= self.backoff_s <= MAX_WAIT_S:
            raise UserError(f"backoff_s ({self.backoff_s}) must be between 0 and {MAX_WAIT_S:g} seconds.")
        for name, low, high in (
            ("retries", 0, 20),
            ("concurrency", 1, 256),
            ("max_tokens", 1, 10**6),
            ("max_consecutive_failures", 1, 10**6),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} ({getattr(self, name)}) must be between {low} and {high}.")


@dataclass
class Usage:
    """What was asked and what it cost. ``cost`` is ``None`` without prices, or where an answer had no ``usage``."""

    requests: int = 0  # answered now
    from_cache: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0
    cost: float | None = None


@dataclass(frozen=True)
class Answer:
    """The text of one answer, or why there is none."""

    text: str | None
    error: str = ""


@dataclass
class _Reply:
    text: str
    usage: dict[str, int] | None
    tries: int = field(default=1)


class Endpoint:
    """Asks one endpoint. Use as a context manager; one per cache file at a time."""

    def __init__(self, config: EndpointConfig, cache: Path) -> None:
        self.config, self.usage = config, Usage()
        self._key = key_from(config.key_env)
        self._cache = AnswerCache(cache)
        self._failures_in_row, self._has_answered = 0, False
        self._asking: weakref.WeakSet[Generator[Answer, None, None]] = weakref.WeakSet()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        for answers in list(self._asking):  # not read to their end
            answers.close()
        self._cache.__exit__()

    def ask(
        self, conversations: Iterable[list[Message]], good: Callable[[str], bool] = lambda text: True
    ) -> Iterator[Answer]:
        """One answer per list of chat messages, in order, ``concurrency`` at a time.

        An answer for which ``good`` is false is not kept in the cache, so that a later run asks again. ``good`` is
        called once for each answer, before it is given. Where the answers are not read to their end, tries under way
        end in an answer, which is kept, or in a failure; none is begun. Raises :class:`EndpointError` where asking on
        makes no sense.
        """
        answers = self._ask(conversations, good)
        self._asking.add(answers)
        return answers

    def _ask(
        self, conversations: Iterable[list[Message]], good: Callable[[str], bool]
    ) -> Generator[Answer, None, None]:
        waiting: deque[tuple[str, str | Future[_Reply]]] = deque()
        stop = threading.Event()
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            try:
                for messages in conversations:
                    body = self._body(messages)
                    key = hashlib.sha256(self.config.base_url.encode() + b"\0" + body).hexdigest()
                    known = self._cache.get(key)
                    waiting.append((key, known if known is not None else pool.submit(self._post, body, stop)))
                    if len(waiting) >= 2 * self.config.concurrency:
                        yield self._take(*waiting.popleft(), good)
                while waiting:
                    yield self._take(*waiting.popleft(), good)
            finally:
                stop.set()
                for key, pending in waiting:
                    if isinstance(pending, Future) and not pending.cancel() and pending.exception() is None:
                        self._keep(key, pending.result())  # paid for; a later run sees whether it is good

    def _body(self, messages: list[Message]) -> bytes:
        row = {
            "model": self.config.model,
            "messages": messages,
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
        }
        return json.dumps(row, sort_keys=True).encode()

    def _take(self, key: str, pending: str | Future[_Reply], good: Callable[[str], bool]) -> Answer:
        if isinstance(pending, str):
            self.usage.from_cache += 1
            self._has_answered = True
            if not good(pending):
                self._cache.drop(key)
            return Answer(pending)
        try:
            reply = pending.result()
        except RequestFailed as error:
            self._failed(error)
            return Answer(None, str(error))
        self._failures_in_row, self._has_answered = 0, True
        if good(reply.text):
            self._keep(key, reply)
        else:
            self._count(reply)
        return Answer(reply.text)

    def _failed(self, error: RequestFailed) -> None:
        self.usage.failed += 1
        self.usage.retries += error.tries - 1
        if error.refused and self._has_answered:  # it is the request: the next ones need not end the same way
            return
        self._failures_in_row += 1
        if self._failures_in_row >= self.config.max_consecutive_failures:
            raise EndpointError(
                f"{self.config.base_url}: {self._failures_in_row} requests in a row without an answer, the last: "
                f"{error}. Answers so far are kept: mend the endpoint, or raise max_consecutive_failures, then run the "
                "same command again."
            ) from None

    def _keep(self, key: str, reply: _Reply) -> None:
        self._count(reply)
        self._cache.keep(key, reply.text, usage=reply.usage)

    def _count(self, reply: _Reply) -> None:
        usage, config = self.usage, self.config
        usage.requests += 1
        usage.retries += reply.tries - 1
        if reply.usage is None:
            usage.without_usage += 1
        else:
            usage.prompt_tokens += reply.usage["prompt_tokens"]
            usage.completion_tokens += reply.usage["completion_tokens"]
        prices = config.price_per_million_prompt_tokens, config.price_per_million_completion_tokens
        if prices[0] is not None and prices[1] is not None and not usage.without_usage:
            usage.cost = (usage.prompt_tokens * prices[0] + usage.completion_tokens * prices[1]) / 1e6
        else:
            usage.cost = None

    def _post(self, body: bytes, stop: threading.Event) -> _Reply:
        path = urlsplit(self.config.base_url).path.rstrip("/") + "/chat/completions"
        (text, usage), tries = send(self.config, self._key, path, body, _read_reply, stop=stop)
        return _Reply(text, usage, tries)


def send(
    config: EndpointConfig,
    key: str | None,
    path: str,
    body: bytes,
    read: Callable[[bytes], T],
    most_bytes: int | None = None,
    stop: threading.Event | None = None,
) -> tuple[T, int]:
    """Post JSON to ``path`` of the host of ``config`` until ``read`` takes the reply: what it read, and the tries.

    ``read`` raises :class:`BadReply` for a reply that is worth another try; none is made once ``stop`` is set. Raises
    :class:`RequestFailed`, and :class:`EndpointError` where every other request would end the same way.
    """
    stop = stop or threading.Event()
    wait_s, reason = config.backoff_s, ""
    for number in range(1, config.retries + 2):
        asked_wait_s = None
        try:
            status, headers, data = _once(config, key, path, body, most_bytes or MAX_RESPONSE_BYTES)
            if status == 200:
                return read(data), number
            reason = f"HTTP {status}: {_excerpt(data)}"
            if status in FATAL:
                raise EndpointError(f"{config.base_url}: {reason}. {_way_out(status, config.key_env)}")
            if status not in RETRIED:
                raise RequestFailed(reason, number, refused=True)
            asked_wait_s = _seconds(headers.get("Retry-After"))
        except (OSError, http.client.HTTPException, BadReply) as error:
            reason = f"{type(error).__name__}: {error}"
        if number > config.retries or stop.wait(min(MAX_WAIT_S, max(wait_s, asked_wait_s or 0.0))):
            break
        wait_s *= 2
    raise RequestFailed(f"{reason} (tried {number} times)", number)


def _once(config: EndpointConfig, key: str | None, path: str, body: bytes, most_bytes: int) -> tuple[int, Any, bytes]:
    url = urlsplit(config.base_url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    deadline = time.monotonic() + config.timeout_s
    connection = kind(str(url.hostname), url.port, timeout=config.timeout_s)
    try:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        connection.connect()
        with _ended_at(deadline, connection.sock, config.timeout_s):
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            data = b""
            while chunk := response.read1(65536):
                data += chunk
                if len(data) > most_bytes:
                    raise BadReply(f"more than {most_bytes} bytes")
        return response.status, response.headers, data
    finally:
        connection.close()


@contextmanager
def _ended_at(deadline: float, connected: socket.socket, timeout_s: float) -> Iterator[None]:
    """Shut a connection down at ``deadline``: a socket's own timeout is per read, which a slow trickle would pass.

    Raises :class:`BadReply` where that happened.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        with suppress(OSError):  # closed meanwhile
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if not late.is_set() and time.monotonic() < deadline:
            raise
    finally:
        timer.cancel()
    if late.is_set() or time.monotonic() >= deadline:
        raise BadReply(f"took longer than {timeout_s:g} s")


class BadReply(Exception):
    """A reply that is not what was asked for."""


def _read_reply(data: bytes) -> tuple[str, dict[str, int] | None]:
    try:
        row = json.loads(data)
        text = row["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise BadReply(f"not a chat completion: {_excerpt(data)}") from None
    if not isinstance(text, str):
        raise BadReply(f"an answer without text: {_excerpt(data)}")
    usage = row.get("usage")
    names = ("prompt_tokens", "completion_tokens")
    if not isinstance(usage, dict) or not all(isinstance(usage.get(n), int) and 0 <= usage[n] < 10**9 for n in names):
        return text, None
    return text, {name: usage[name] for name in names}


def unfenced(text: str) -> str:
    """The text of an answer, without the one code fence that may stand around all of it."""
    text = text.strip()
    return text[text.index("\n") : -3] if text.startswith("```") and text.endswith("```") and "\n" in text else text


def key_from(name: str | None) -> str | None:
    """The API key that an environment variable holds; None without a name. Raises :class:`EndpointError`."""
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise EndpointError(
            f"key_env ({name!r}): this environment variable is not set. Put the endpoint's key into it."
        )
    if not key.isascii() or not key.isprintable():
        raise EndpointError(f"key_env ({name!r}): its value must be printable ASCII without line breaks.")
    return key


def _seconds(text: str | None) -> float | None:
    """``Retry-After`` in seconds; its other form, a date, is left to the back-off."""
    return float(text) if text is not None and text.strip().isdigit() and len(text) < 9 else None


def _excerpt(data: bytes) -> str:
    text = " ".join(data[:300].decode("utf-8", "replace").split())
    return text[:200] or "no text"


def _way_out(status: int, key_env: str | None) -> str:
    if status in (401, 403):
        return (
            f"Check the key in {key_env}." if key_env else "It wants a key: name its environment variable in key_env."
        )
    if status < 400:
        return "Redirects are not followed: give the address it leads to as base_url."
    return "Check base_url (it ends before /chat/completions) and model."
