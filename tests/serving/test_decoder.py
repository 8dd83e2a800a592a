"""The decoder processes have bounds on memory and time: a file that breaks them costs one request."""

from __future__ import annotations

import base64
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from timeexpert.serving.frames import ImageDecoder
from timeexpert.serving.limits import RequestError, ServingLimits
from timeexpert.serving.media import Decoder

from ..data.media import write_video
from .conftest import PROMPT, Servers, data_url, question
from .test_http import until
from .test_refusals import refused

MIB = 2**20
needs_rlimit = pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is RLIMIT_AS of Linux")


def write_large(path: Path, width: int = 4096, height: int = 2304, num_frames: int = 12) -> Path:
    """Some hundred kilobytes of H.264 whose pictures take 14 MB each."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(num_frames):
            frame = av.VideoFrame(width, height, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([20 * i % 256]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@needs_rlimit
def test_a_video_that_takes_too_much_memory_costs_one_request(servers: Servers, video: Path, tmp_path: Path) -> None:
    client = servers.start(decode_memory_bytes=40 * MIB, decode_workers=1)
    large = write_large(tmp_path / "large.mp4").read_bytes()
    assert len(large) < MIB
    words = "video_url: decoding needs more than 40 MiB of memory. Send a shorter, smaller or re-encoded video."
    refused(client.ask(question(data_url(large))), 400, words)
    assert client.ask(question(data_url(video.read_bytes()))).status == 200
    with Decoder(16, ServingLimits(decode_memory_bytes=512 * MIB)) as decoder:  # nothing else is wrong with it
        assert decoder(tmp_path / "large.mp4", 4).damage is None


@needs_rlimit
def test_an_image_that_takes_too_much_memory_costs_one_request() -> None:
    def png(side: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (side, side)).save(file, "png")
        return file.getvalue()

    decoder = ImageDecoder(16, ServingLimits(decode_memory_bytes=20 * MIB))
    with decoder, pytest.raises(RequestError, match="decoding needs more than 20 MiB of memory. Send smaller images"):
        decoder([png(3000)], [0.0])
    with ImageDecoder(16, ServingLimits(decode_memory_bytes=20 * MIB)) as decoder:
        assert decoder([png(30)], [0.0]).frames.shape == (1, 16, 16, 3)


def test_a_decoder_that_hangs_costs_one_request(servers: Servers, video: Path, tmp_path: Path) -> None:
    client = servers.start(decode_timeout_s=4.0, decode_workers=1)
    known, new = (write_video(tmp_path / f"{n}.mp4", num_frames=n).read_bytes() for n in (5, 6))
    until(lambda: client.ask(question(data_url(known))).status == 200)  # its start may take longer than the limit
    (worker,) = client.engine._decoders[0]._pool._workers
    hung = worker.process.pid
    os.kill(hung, signal.SIGSTOP)
    refused(client.ask(question(data_url(new))), 400, "video_url: decoding took longer than 4 s. Send a shorter")
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)
    until(lambda: client.ask(question(data_url(video.read_bytes()))).status == 200)


def test_more_requests_with_images_than_may_wait_are_told_to_come_again(servers: Servers) -> None:
    client = servers.start(max_waiting_images=1)
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "png")
    image = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content: list[dict[str, Any]] = [
        {"type": "text", "text": "<0.0 seconds>"},
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "text", "text": PROMPT},
    ]
    body = {"messages": [{"role": "user", "content": content}]}
    assert client.ask(body).status == 200
    with client.service.images._places:  # one waits
        reply = client.ask(body)
        refused(reply, 429, "1 requests with images wait already; ask again in 5 s.", "overloaded_error")
        assert reply.headers["Retry-After"] == "5"
    assert client.ask(body).status == 200
