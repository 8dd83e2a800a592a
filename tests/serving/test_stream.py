"""Streamed answers, frames with times, and the clients that people really use."""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from timeexpert.predict import Predictor
from timeexpert.serving.answer_text import readable
from timeexpert.serving.engine import Engine, Question

from .conftest import PROMPT, Client, Servers, data_url, question
from .test_refusals import refused


@pytest.fixture(scope="module")
def url(video: Path) -> str:
    return data_url(video.read_bytes())


def test_a_stream_holds_the_text_then_the_events_then_the_end(client: Client, url: str) -> None:
    message = client.ask(question(url)).body["choices"][0]["message"]
    *texts, last, done = client.chunks(question(url))
    assert done == "[DONE]" and texts
    assert {chunk["object"] for chunk in (*texts, last)} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in (*texts, last)}) == 1
    assert texts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in texts) == message["content"]
    (choice,) = last["choices"]
    assert choice["delta"] == {} and choice["finish_reason"] in ("stop", "length")
    for name in ("events", "problems", "frame_times_s", "duration_s", "video_damage"):
        assert choice[name] == message[name]
    assert set(choice["timings"]) == {"queue_s", "decode_s", "encode_s", "generate_s"}


def test_a_refusal_before_the_first_piece_has_its_status(client: Client) -> None:
    refused(client.ask(question(data_url(b"no video"), stream=True)), 400, "not a readable video: it is text")
    refused(client.ask(question("sample-x", stream=True)), 404, "no such sample")


def test_a_failure_after_the_first_piece_is_told_in_the_stream(
    servers: Servers, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaking:
        def __init__(self, engine: Engine) -> None:
            self.engine = engine

        def submit(self, question: Question) -> Any:
            ticket = self.engine.submit(question)

            def events() -> Any:
                yield "some text"
                raise KeyError("/home/somebody/secret")

            ticket.events = events  # type: ignore[method-assign]
            return ticket

    client = servers.start(engine=Breaking(servers.start().engine))
    _, error = client.fetch("POST", "/v1/chat/completions", body_of(question(url, stream=True)))[1].split(b"\n\n")[:2]
    assert b"the server failed; its log says why." in error and b"secret" not in error
    assert "KeyError: '/home/somebody/secret'" in caplog.text


def body_of(value: dict[str, Any]) -> bytes:
    import json

    return json.dumps(value).encode()


def test_every_event_has_a_place_for_its_confidence(client: Client, url: str) -> None:
    message = client.ask(question(url)).body["choices"][0]["message"]
    assert message["events"] and all(set(e["confidence"]) == {"start", "end", "score"} for e in message["events"])


# -- frames with times


def png(image: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def interleaved(images: list[str], times: list[str]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    for address, time in zip(images, times, strict=True):
        parts += [{"type": "text", "text": time}, {"type": "image_url", "image_url": {"url": address}}]
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": PROMPT}]}]}


def test_frames_with_times_are_read_like_a_videos(client: Client, predictor: Predictor) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    message = client.ask(interleaved([png(f) for f in frames], ["<0.5 seconds>", "<1.5 seconds>", " <2.5 seconds>\n"]))
    assert message.body["choices"][0]["message"]["frame_times_s"] == [0.5, 1.5, 2.5]
    large = [np.repeat(np.repeat(f, 8, 0), 8, 1) for f in frames]
    answer = client.ask(interleaved([png(f) for f in large], ["<0.5 seconds>", "<1.5 seconds>", "<2.5 seconds>"]))
    assert answer.status == 200  # of any size: the model's is made of it


IMAGE = png(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("images", "times", "words"),
    [
        ([IMAGE] * 2, ["<1 seconds>", "frame two"], "content[3]: an image_url does not say when its frame was shown"),
        ([IMAGE] * 2, ["<2 seconds>", "<1.0 seconds>"], "the times of the images must rise; 1 s stands after 2 s"),
        ([IMAGE] * 2, ["<1 seconds>", "<1.0 seconds>"], "must rise"),
        ([IMAGE], ["<-1 seconds>"], "does not say when"),
        (["https://a.org/x.png"], ["<1 seconds>"], "must begin with data:image/png;base64,"),
        (["file:///etc/passwd"], ["<1 seconds>"], "must begin with data:image/png;base64,"),
        (["data:image/png;base64,****"], ["<1 seconds>"], "not base64"),
        (["data:image/png;base64,AAAA"], ["<1 seconds>"], "image 0: not a readable PNG, JPEG or WebP"),
        ([IMAGE] * 257, [f"<{i} seconds>" for i in range(257)], "has 257 images; at most 256 are read"),
    ],
)
def test_frames_that_cannot_be_placed_are_refused(
    client: Client, images: list[str], times: list[str], words: str
) -> None:
    refused(client.ask(interleaved(images, times)), 400, words)


def test_a_time_without_an_image_and_images_beside_a_video_are_refused(client: Client, url: str) -> None:
    video = {"type": "video_url", "video_url": {"url": url}}
    for parts, words in (
        ([{"type": "text", "text": "<1 seconds>"}], "ends with the time of an image"),
        ([{"type": "text", "text": "<1 seconds>"}, {"type": "text", "text": "x"}], "the time of an image, and no"),
        ([{"type": "text", "text": "<1 seconds>"}, video], "the time of an image, and no image follows"),
    ):
        refused(client.ask({"messages": [{"role": "user", "content": parts}]}), 400, words)
    both = interleaved([IMAGE], ["<1 seconds>"])
    both["messages"][0]["content"].append(video)
    refused(client.ask(both), 400, "has a video and images")


def test_an_image_bomb_is_not_unpacked(client: Client) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = (50_000).to_bytes(4, "big") * 2  # 7.5 GB of pixels in 30 bytes of header
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x02\0\0\0") + chunk(b"IDAT", zlib.compress(bytes(10**6)))
    address = "data:image/png;base64," + base64.b64encode(bomb + chunk(b"IEND", b"")).decode()
    reply = client.ask(interleaved([address], ["<1 seconds>"]))
    assert reply.status == 400 and "image 0: " in reply.message


# -- clients


def test_the_official_client_asks_streams_uploads_and_deletes(servers: Servers, video: Path) -> None:
    server = servers.start({"api_key": "open sesame"})
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="open sesame", max_retries=0, timeout=60)
    assert [model.id for model in client.models.list()] == ["tiny"]
    file = client.files.create(file=video, purpose="user_data")
    assert client.files.retrieve(file.id).bytes == video.stat().st_size
    assert [row.id for row in client.files.list()] == [file.id]
    assert client.files.content(file.id).content == video.read_bytes()
    content: Any = [{"type": "file", "file": {"file_id": file.id}}, {"type": "text", "text": PROMPT}]
    messages: Any = [{"role": "user", "content": content}]
    answer = client.chat.completions.create(model="tiny", messages=messages, extra_body={"task": "moment_retrieval"})
    (event,) = answer.choices[0].message.model_extra["events"]  # type: ignore[index]
    assert event["start_s"] <= event["end_s"] <= 4.0
    stream = client.chat.completions.create(
        model="tiny",
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"task": "moment_retrieval"},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content and text.startswith(f"{event['start_s']:.1f} - ")
    assert chunks[-1].usage == answer.usage
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="no such file"):
        client.chat.completions.create(model="tiny", messages=messages)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()


def test_metrics_are_prometheus_text(client: Client, url: str) -> None:
    client.ask(question(url))
    response, data = client.fetch("GET", "/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    values = {}
    for line in data.decode().splitlines():
        if not line.startswith("# "):
            name, value = line.rsplit(" ", 1)
            assert name.startswith("timeexpert_")
            values[name] = float(value)
    asked = 'timeexpert_http_requests_total{method="POST",path="/v1/chat/completions",status="200"}'
    assert values[asked] >= 1 and values["timeexpert_engine_answered_total"] >= 1
    assert values["timeexpert_http_in_flight"] >= 1  # the one that asks
    assert values['timeexpert_http_request_seconds_bucket{le="+Inf",path="/v1/chat/completions"}'] >= 1
    assert values['timeexpert_engine_steps_total{rows="1"}'] >= 1 and values["timeexpert_store_bytes"] >= 0


def test_readable_is_what_the_text_holds(client: Client, predictor: Predictor, video: Path, url: str) -> None:
    lines = [readable(event) for event in predictor.ask(video, PROMPT).events]
    assert client.ask(question(url)).body["choices"][0]["message"]["content"].split("\n") == lines
