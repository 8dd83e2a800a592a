"""A server with the endpoints that the page uses, on a free loopback port, with answers that a test writes."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from timeexpert.serving.headers import PAGE_POLICY

PAGE = Path(__file__).resolve().parents[3] / "timeexpert" / "serving" / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def event(start_s: float | None, end_s: float | None, text: str, *scores: float, **confidence: float) -> dict[str, Any]:
    """An event as the server gives it."""
    sure = {"start": None, "end": None, "score": None, **confidence}
    return {"start_s": start_s, "end_s": end_s, "scores": list(scores), "text": text, "confidence": sure}


def answer(*events: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The fields of an answer beside its text."""
    frames = [2.5, 7.5, 12.5, 17.5]
    timings = {"queue_s": 0.01, "decode_s": 0.12, "encode_s": 0.2, "generate_s": 1.25}
    base = {"problems": [], "frame_times_s": frames, "duration_s": 20.0, "video_damage": None, "timings": timings}
    return {"events": list(events), **base, "experts": None, **fields}


@dataclass
class Script:
    """What the server does, and what it saw."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)  # by prompt
    pieces: dict[str, list[str]] = field(default_factory=dict)  # the text that is streamed, by prompt
    samples: dict[str, Path] = field(default_factory=dict)  # by id
    refusals: list[tuple[int, dict[str, str], Any]] = field(
        default_factory=list
    )  # status, headers, body: first in line
    key: str | None = None
    draws_masks: bool = False
    breaks: str = ""  # "stream": it ends in the middle; "connection": there is no answer at all
    gate: threading.Event = field(default_factory=threading.Event)  # closed: the stream waits after its first piece
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)  # a client went away in the middle of an answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, script = self.path, self.script
        if path == "/" or path.startswith("/page/"):
            file = PAGE / ("index.html" if path == "/" else path.removeprefix("/page/"))
            return self.reply(200, file.read_bytes(), TYPES[file.suffix], {"Content-Security-Policy": PAGE_POLICY})
        if script.key and self.headers.get("Authorization") != f"Bearer {script.key}":
            return self.json(401, {"error": {"message": "wrong or missing API key."}})
        if path == "/v1/models":
            row = {"id": "tiny", "object": "model", "draws_masks": script.draws_masks}
            return self.json(200, {"object": "list", "data": [row]})
        if path == "/samples":
            rows = [
                {"id": i, "name": f"Sample {i}", "duration_s": 20.0, "prompts": ["When is it dark?"]}
                for i in script.samples
            ]
            return self.json(200, rows)
        if match := re.fullmatch(r"/v1/files/([^/]+)/content", path):
            if match[1] in script.files:
                return self.ranged(script.files[match[1]][1])
        if match := re.fullmatch(r"/samples/([^/]+)/content", path):
            return self.ranged(script.samples[match[1]].read_bytes())
        self.json(404, {"error": {"message": "no such file."}})

    def do_DELETE(self) -> None:
        self.script.files.pop(self.path.rpartition("/")[2], None)
        self.json(200, {"deleted": True})

    def do_POST(self) -> None:
        body, script = self.rfile.read(int(self.headers["Content-Length"])), self.script
        if script.key and self.headers.get("Authorization") != f"Bearer {script.key}":
            return self.json(401, {"error": {"message": "wrong or missing API key."}})
        if script.refusals:
            status, headers, words = script.refusals.pop(0)
            return self.json(status, words, headers)
        if self.path == "/v1/files":
            head, _, rest = body.split(b'name="file"', 1)[1].partition(b"\r\n\r\n")
            name = re.search(rb'filename="([^"]*)"', head)
            script.files[f"file-{len(script.files) + 1}"] = (
                name[1].decode() if name else "",
                rest.rpartition(b"\r\n--")[0],
            )
            return self.json(200, {"id": f"file-{len(script.files)}", "object": "file"})
        question = json.loads(body)
        if script.breaks == "connection":
            self.close_connection = True
            return
        script.asked.append(question)
        self.stream(question["messages"][0]["content"][1]["text"])

    def stream(self, prompt: str) -> None:
        script = self.script
        fields = script.answers.get(prompt, answer())
        pieces = script.pieces.get(prompt, [" ".join(row["text"] for row in fields["events"])])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for i, piece in enumerate(pieces):
                self.chunk({"index": 0, "delta": {"content": piece}, "finish_reason": None})
                while i == 0 and len(pieces) > 1 and not script.gate.wait(0.02):
                    self.wfile.write(b": waiting\n\n")
            if script.breaks == "stream":
                return
            self.chunk({"index": 0, "delta": {}, "finish_reason": "stop", **fields})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            script.left.set()

    def chunk(self, choice: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n".encode())
        self.wfile.flush()

    def ranged(self, data: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        assert match is not None
        start, end = int(match[1]), int(match[2] or len(data) - 1)
        headers = {"Content-Range": f"bytes {start}-{end}/{len(data)}", "Accept-Ranges": "bytes"}
        self.reply(206, data[start : end + 1], "video/mp4", headers)

    def json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self.reply(status, json.dumps(body).encode(), "application/json", headers)

    def reply(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass  # a player stops reading when it seeks


class StandIn(ThreadingHTTPServer):
    """Listens from the moment it is made."""

    daemon_threads = True

    def __init__(self, script: Script) -> None:
        self.script = script
        super().__init__(("127.0.0.1", 0), type("Scripted", (Handler,), {"script": script}))
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A tab that is closed leaves connections behind."""
