"""A real HTTP server that answers like an OpenAI-compatible endpoint, and misbehaves when told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def completion(text: str, usage: dict[str, int] | None = None) -> Reply:
    """A chat completion with 100 and 10 tokens, unless ``usage`` says otherwise."""
    row: dict[str, Any] = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    row["usage"] = {"prompt_tokens": 100, "completion_tokens": 10} if usage is None else usage
    return 200, {"Content-Type": "application/json"}, json.dumps(row).encode()


class ChatServer:
    """``reply(number, request)`` decides each answer; a float is slept before a body that trickles."""

    def __init__(self, reply: Callable[[int, dict[str, Any]], Reply]) -> None:
        self.reply, self.requests, self.headers, self.paths = reply, [], [], []
        self._lock = threading.Lock()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with chat._lock:
                    number = len(chat.requests)
                    chat.requests.append(json.loads(body))
                    chat.headers.append(dict(self.headers))
                    chat.paths.append(self.path)
                status, headers, data = chat.reply(number, json.loads(body))
                trickle_s = float(headers.pop("X-Trickle-S", 0))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                try:
                    for first in range(0, len(data), 8 if trickle_s else len(data) or 1):
                        self.wfile.write(data[first : first + (8 if trickle_s else len(data))])
                        self.wfile.flush()
                        time.sleep(trickle_s)
                except OSError:
                    return  # the client gave up, as it should

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@contextmanager
def serving(reply: Callable[[int, dict[str, Any]], Reply]) -> Iterator[ChatServer]:
    """A server on a free local port."""
    chat = ChatServer(reply)
    thread = threading.Thread(target=chat.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        chat.server.shutdown()
        chat.server.server_close()
        thread.join()
