"""Broken and malicious input: never a status of 500, never a server that stops answering."""

from __future__ import annotations

import gzip
import io
import os
import signal
import threading
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
import schemathesis

from ..data.media import write_video
from .conftest import Client, Servers, data_url, question
from .test_http import until
from .test_refusals import refused

# 10 000 in a long run: TIMEEXPERT_FUZZ_EXAMPLES=10000
EXAMPLES = int(os.environ.get("TIMEEXPERT_FUZZ_EXAMPLES", "12"))


def mutated(data: bytes, seed: int) -> bytes:
    """A file with bytes changed, cut out or doubled, mostly in its headers."""
    noise = np.random.default_rng(seed)
    out = bytearray(data)
    where = [int(x) for x in noise.integers(0, len(out), 8)] + [
        int(x) for x in noise.integers(len(out) - 900, len(out), 8)
    ]
    for at in where:
        out[at] = int(noise.integers(0, 256))
    if seed % 3 == 1:
        del out[where[0] : where[0] + int(noise.integers(1, 2000))]
    if seed % 3 == 2:
        out[where[0] : where[0]] = out[where[1] : where[1] + 500]
    return bytes(out)


def test_mutated_videos_are_answered_or_refused(client: Client, video: Path) -> None:
    data = video.read_bytes()
    statuses = set()
    for seed in range(max(15, EXAMPLES // 20)):
        reply = client.ask(question(data_url(mutated(data, seed)), max_tokens=20))
        statuses.add(reply.status)
        assert reply.status in (200, 400), reply.body
        assert reply.status == 200 or len(reply.message) > 20
    assert 400 in statuses  # some were broken enough to notice
    print(counted(client))


def test_archives_are_no_videos_and_are_not_unpacked(client: Client) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../bomb.mp4", bytes(50_000_000))
    for bomb in (zipped.getvalue(), gzip.compress(bytes(50_000_000))):
        refused(client.ask(question(data_url(bomb))), 400, "video_url: not a readable video")


def test_a_compressed_body_is_not_unpacked(client: Client) -> None:
    refused(client.ask(gzip.compress(b" " * 10_000_000), Content_Encoding="gzip"), 415, "compressed bodies")


def test_a_video_that_says_it_lasts_ten_hours_is_refused_in_time(client: Client, tmp_path: Path) -> None:
    import av

    path = tmp_path / "long.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts = i * 5 * 36_000 * 2 // 3  # two frames 6.7 h apart, three times
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    reply = client.ask(question(data_url(path.read_bytes()).replace("mp4", "x-matroska", 1)))
    assert reply.status == 400 and ("max_duration_s" in reply.message or "seconds" in reply.message), reply.body


def test_a_decoder_killed_in_the_middle_costs_one_request(servers: Servers, tmp_path: Path) -> None:
    client = servers.start()
    long = data_url(write_video(tmp_path / "long.mp4", num_frames=900).read_bytes())
    short = data_url(write_video(tmp_path / "short.mp4", num_frames=5).read_bytes())
    other = data_url(write_video(tmp_path / "other.mp4", num_frames=6).read_bytes())
    assert client.ask(question(short)).status == client.ask(question(other)).status == 200  # both decoders have begun
    before = {child.pid for child in psutil.Process().children()}
    replies = []
    asking = threading.Thread(target=lambda: replies.append(client.ask(question(long, max_tokens=20))))
    workers = [worker.process.pid for decoder in client.engine._decoders for worker in decoder._pool._workers]
    assert len(workers) == 2 and set(workers) <= before
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)  # it hangs, so that the kill meets it at work
    asking.start()
    until(lambda: client.engine.stats()["queue_length"] == 1)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    asking.join(120)
    (reply,) = replies
    assert reply.status in (200, 400)
    if reply.status == 400:
        assert "video_url: decoding" in reply.message
    assert client.ask(question(short)).status == 200


SHARES = {"POST /v1/chat/completions": 0.7, "POST /v1/files": 0.2}  # of the requests; what has an id: 0.04 each


def aimed(case: schemathesis.Case, aim: int, sample: str, file: str) -> None:
    """Most made-up requests name no video, and end there; put one in, so that what comes after it is reached too."""
    if aim and "sample_id" in case.path_parameters:
        case.path_parameters["sample_id"] = sample
    if aim and "file_id" in case.path_parameters and case.method != "DELETE":
        case.path_parameters["file_id"] = file
    messages = case.body.get("messages") if isinstance(case.body, dict) else None
    if not aim or not isinstance(messages, list) or not messages or not isinstance(messages[0], dict):
        return
    parts = messages[0].get("content")
    if aim == 1 and isinstance(parts, list):
        for part in parts:
            for kind, name, value in (("video_url", "url", sample), ("file", "file_id", file)):
                if isinstance(part, dict) and isinstance(part.get(kind), dict):
                    part[kind][name] = value
    elif aim > 1:
        case.body["messages"] = question(sample if aim == 2 else file)["messages"]


@pytest.mark.filterwarnings("ignore")
def test_requests_made_from_the_openapi_document_never_fail_the_server(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every answer has a status, a type and a shape that the document names."""
    import hypothesis
    import hypothesis.strategies as st
    import requests
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    clip = write_video(tmp_path / "one.mp4", num_frames=5)
    client = servers.start({"samples": tmp_path, "allowed_folder": tmp_path})
    (sample,), file = client.service.samples, client.upload(clip.read_bytes()).body["id"]
    document = requests.get(f"{client.url}/openapi.json", timeout=10).json()
    schema = schemathesis.openapi.from_dict(document)
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    seen = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        seen.add(operation.label)

        @hypothesis.settings(
            max_examples=max(3, round(EXAMPLES * SHARES.get(operation.label, 0.04))),
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(), aim=st.integers(0, 3))
        def fuzz(case: schemathesis.Case, aim: int) -> None:
            aimed(case, aim, sample, file)
            response = case.call(base_url=client.url, timeout=60)
            assert response.status_code != 500
            case.validate_response(response, checks=checks)
            if (
                case.method == "POST" and case.path == "/v1/files" and response.status_code < 300
            ):  # else they fill the server's quota
                requests.delete(f"{client.url}/v1/files/{response.json()['id']}", timeout=60).raise_for_status()

        fuzz()
    assert len(seen) == 12 and set(SHARES) < seen
    good = schema["/v1/chat/completions"]["POST"].Case(body=question(sample), media_type="application/json")
    response = good.call(base_url=client.url, timeout=60)
    assert response.status_code == 200
    good.validate_response(response, checks=checks)
    assert "failed" not in caplog.text
    print(counted(client))  # pytest -s shows it


def counted(client: Client) -> str:
    """Requests by path and status."""
    lines = client.fetch("GET", "/metrics")[1].decode().splitlines()
    return "\n".join(line for line in lines if line.startswith("timeexpert_http_requests_total{"))
