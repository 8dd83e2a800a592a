"""A model of a few thousand weights, untrained, and a server around it on a free loopback port."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn

from timeexpert.checkpoint import write_folder
from timeexpert.model import TimeExpert, TimeExpertConfig
from timeexpert.predict import INFERENCE, Predictor
from timeexpert.serving.app import create_app
from timeexpert.serving.engine import Engine
from timeexpert.serving.fetch import Fetcher
from timeexpert.serving.limits import ServingLimits
from timeexpert.serving.run import is_loopback, listen
from timeexpert.serving.service import Service
from timeexpert.serving.settings import ServerSettings
from timeexpert.serving.wire import uvicorn_config
from timeexpert.tokenization.text import SentencePieceText

from ..data.media import write_video

PROMPT = "When does the red circle grow?"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as training leaves it: weights, tokenizer, inference.json, manifest."""
    root = tmp_path_factory.mktemp("model")
    text = SentencePieceText.train([PROMPT, "a red circle grows"], 320, root / "text")
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = TimeExpertConfig(
        {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8, "vision_use_head": False, **vision},
        {
            **decoder,
            "vocab_size": text.vocab_size,
            "intermediate_size": 16,
            "max_position_embeddings": 1024,
            "pad_token_id": text.pad_id,
            "eos_token_id": text.eos_id,
            "bos_token_id": None,
        },
        moe={"num_experts": 2, "expert_dim": 16, "num_shared_experts": 1, "top_k": 1},
        compressor="vision",
        initializer_range=0.5,
    )
    model = TimeExpert(config)

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        text.save(folder)
        (folder / INFERENCE).write_text(json.dumps({"num_frames": 4, "max_new_tokens": 48, "max_events": 4}))

    write_folder(root / "tiny", fill)
    return root / "tiny"


@pytest.fixture(scope="session")
def predictor(model_folder: Path) -> Predictor:
    return Predictor.from_pretrained(model_folder, device="cpu")


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4.0 s of noise, 5 frames a second, in a folder that file:// may name."""
    return write_video(tmp_path_factory.mktemp("media") / "in" / "noise.mp4", num_frames=20, fps=5)


def data_url(data: bytes) -> str:
    return "data:video/mp4;base64," + base64.b64encode(data).decode()


def question(url: str, text: str = PROMPT, **fields: Any) -> dict[str, Any]:
    """The body that lmms-eval sends, with ``fields`` added or put in place of its own."""
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": content}], "temperature": 0.0, **fields}


@dataclass(frozen=True)
class Reply:
    status: int
    body: dict[str, Any]
    headers: http.client.HTTPMessage

    @property
    def message(self) -> str:
        """What an error says."""
        return str(self.body["error"]["message"])


class Asker(ABC):
    """Asks one server."""

    @property
    @abstractmethod
    def address(self) -> tuple[str, int]:
        """Host and port."""

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.address)

    def fetch(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[Any, bytes]:
        """(response, its body) as they came."""
        connection = http.client.HTTPConnection(*self.address, timeout=120)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Content-Type": "application/json", **named})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        response, data = self.fetch(method, path, body, **headers)
        return Reply(response.status, json.loads(data) if data else {}, response.headers)

    def ask(self, body: dict[str, Any] | bytes, **headers: str) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", "/v1/chat/completions", data, **headers)

    def chunks(self, body: dict[str, Any]) -> list[Any]:
        """A streamed answer's chunks; the last one is the text [DONE]."""
        response, data = self.fetch("POST", "/v1/chat/completions", json.dumps({**body, "stream": True}).encode())
        assert response.status == 200 and response.headers["Content-Type"] == "text/event-stream", data
        events = data.decode().split("\n\n")
        assert events.pop() == "" and all(event.startswith("data: ") for event in events)
        return [event[6:] if event == "data: [DONE]" else json.loads(event[6:]) for event in events]

    def upload(self, data: bytes, filename: str = "clip.mp4", **headers: str) -> Reply:
        name = filename.encode("utf-8").replace(b'"', b"%22")
        body = (
            b'--cut\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
            b'--cut\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n'
            b"Content-Type: application/octet-stream\r\n\r\n" + data + b"\r\n--cut--\r\n"
        )
        return self.send("POST", "/v1/files", body, **{"Content_Type": "multipart/form-data; boundary=cut", **headers})


def answer_to(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    answer = b""
    try:
        while part := connection.recv(65536):
            answer += part
    except ConnectionResetError:
        pass  # it lingered long enough for us to read the answer
    return answer


@dataclass(frozen=True)
class Client(Asker):
    """Asks a server in this process, whose parts can be looked at."""

    sock: socket.socket
    service: Service
    engine: Engine

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.sock.getsockname()[:2]
        return str(host), int(port)


class Servers:
    """Starts servers around one engine and stops them all. ``limits`` are fields of ServingLimits."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._started: list[tuple[uvicorn.Server, threading.Thread]] = []
        self._engines: list[Engine] = []

    def start(
        self, access: dict[str, Any] | None = None, engine: Any = None, fetcher: Fetcher | None = None, **limits: Any
    ) -> Client:
        bounds = ServingLimits(**limits)
        if engine is None:
            engine = Engine(self._predictor, "tiny", bounds).__enter__()
            self._engines.append(engine)
        sock = listen("127.0.0.1", 0)
        settings = ServerSettings(
            model="tiny", frame_size=16, loopback=is_loopback(sock), limits=bounds, **(access or {})
        )
        app = create_app(engine, settings, fetcher=fetcher)
        server = uvicorn.Server(uvicorn_config(app, bounds))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])), daemon=True)
        thread.start()  # connections wait in the socket's queue until it accepts
        self._started.append((server, thread))
        return Client(sock, app.state.service, engine)

    def stop(self) -> None:
        for server, _ in self._started:
            server.should_exit = True
        for _, thread in self._started:
            thread.join()
        for engine in self._engines:
            engine.__exit__(None, None, None)


@pytest.fixture(scope="module")
def servers(predictor: Predictor) -> Iterator[Servers]:
    started = Servers(predictor)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(servers: Servers, video: Path) -> Client:
    """The usual server; file:// may name the videos' folder."""
    return servers.start({"allowed_folder": video.parent})
