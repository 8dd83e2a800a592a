"""What somebody with bad intentions sends to a server in a process of its own: each is refused, and told why."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import socket
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from ..data.media import write_video
from .conftest import PROMPT, Reply, data_url, question
from .process import Process, process
from .test_fetch import PUBLIC, Host, running
from .test_http import head
from .test_refusals import refused

HOUR_S = 3600
LATE = {
    "header_timeout_s": 1.0,
    "body_timeout_s": 2.0,
    "upload_timeout_s": 2.0,
    "fetch_timeout_s": 3.0,
    "linger_s": 0.5,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attacked").resolve()


@pytest.fixture(scope="module")
def canary(video: Path) -> Iterator[Host]:
    """A service of this machine that nobody may reach through the server."""
    yield from running(Host(video.read_bytes()))


@pytest.fixture(scope="module")
def outside(video: Path) -> Iterator[Host]:
    """A host of the internet, as far as the server knows."""
    yield from running(Host(video.read_bytes()))


@pytest.fixture(scope="module")
def server(place: Path, model_folder: Path, canary: Host, outside: Host) -> Iterator[Process]:
    folder = place / "media"
    write_video(folder / "clip.mp4", num_frames=5)
    local = f"127.0.0.1:{canary.server_port}", f"localhost:{canary.server_port}"
    config = {
        "access": {"allowed_folder": str(folder), "allowed_domains": ["a.org", "rebinding.org", *local]},
        "limits": LATE,
        "names": {"a.org": [PUBLIC] * 50, "rebinding.org": [PUBLIC, "127.0.0.1", PUBLIC, "10.0.0.1"]},
        "reach": {PUBLIC: outside.server_port},
    }
    with process(place / "server", model_folder, **config) as started:
        yield started
        assert started.send("GET", "/healthz").status == 200
        assert "Traceback" not in started.log and " 500 " not in started.log
        started.terminate()
        assert started.wait() == 0


def ask_about(server: Process, data: bytes) -> Reply:
    return server.ask(question(data_url(data)))


def frames(*images: bytes) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    for i, data in enumerate(images):
        address = "data:image/png;base64," + base64.b64encode(data).decode()
        content += [{"type": "text", "text": f"<{i} seconds>"}, {"type": "image_url", "image_url": {"url": address}}]
    return {"messages": [{"role": "user", "content": [*content, {"type": "text", "text": PROMPT}]}]}


# -- bombs


def test_compressed_bodies_are_refused_unread(server: Process) -> None:
    bomb = gzip.compress(bytes(20_000_000))
    for coding in ("gzip", "deflate", "br", "zstd", "identity, gzip"):
        refused(server.ask(bomb, Content_Encoding=coding), 415, "compressed bodies (Content-Encoding) are not unpacked")
        refused(server.upload(bomb, Content_Encoding=coding), 415, "are not unpacked")
    assert server.send("GET", "/v1/models", Content_Encoding="gzip").status == 200


def test_archives_are_not_unpacked(server: Process) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../bomb.mp4", bytes(20_000_000))
    for bomb in (zipped.getvalue(), gzip.compress(bytes(20_000_000))):
        refused(ask_about(server, bomb), 400, "video_url: not a readable video: it is damaged or of no container")
        file_id = server.upload(bomb, "video.mp4").body["id"]
        refused(server.ask(question(file_id)), 400, "video_url: not a readable video")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(width: int, height: int, *chunks: bytes, pixels: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">II", width, height) + b"\x08\x02\0\0\0")
    data = png_chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + png_chunk(b"IEND", b"")


def test_image_bombs_are_refused_by_their_headers(server: Process) -> None:
    small = io.BytesIO()
    Image.new("RGB", (16, 16)).save(small, "jpeg")
    jpeg = bytearray(small.getvalue())
    size_at = jpeg.index(b"\xff\xc0") + 5  # SOF0: marker, length, precision, height, width
    jpeg[size_at : size_at + 4] = struct.pack(">HH", 65_500, 65_500)
    wide = png(50_000, 50_000, pixels=bytes(10**6))
    refused(server.ask(frames(wide)), 400, "image 0: 50000x50000 pixels are more than 9437184.")
    refused(server.ask(frames(bytes(jpeg))), 400, "image 0: 65500x65500 pixels are more than 9437184.")
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000)))  # 50 MB of text in 50 KB
    refused(server.ask(frames(png(8, 8, text, pixels=bytes(200)))), 400, "image 0: not a readable PNG")
    too_much = png(8, 8, pixels=bytes(50_000_000))  # more than its 200 bytes of pixels
    assert server.ask(frames(too_much)).status in (200, 400)


def huge_frames(folder: Path, *, in_header: bool) -> bytes:
    """Motion JPEG whose pictures, or also whose header, say 65500 by 65500 pixels."""
    path = folder / "huge.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert data.count(struct.pack(">HH", 48, 64)) == 3  # of the three pictures
    data = data.replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 65_500, 65_500))
    if in_header:
        data = data.replace(struct.pack("<ii", 64, 48), struct.pack("<ii", 65_500, 65_500))
    return data


@pytest.mark.parametrize("in_header", [True, False])
def test_a_video_of_huge_frames_is_refused(server: Process, tmp_path: Path, in_header: bool) -> None:
    # max_pixels holds in FFmpeg's own probing too, which then finds no size at all
    data = huge_frames(tmp_path, in_header=in_header)
    refused(ask_about(server, data), 400, "video_url: none of its 3 frames decodes")


def with_index_of(data: bytes, seconds: int) -> bytes:
    """An MP4 whose table of sample times (stts, ISO/IEC 14496-12 8.6.1.2) stretches it to ``seconds``."""
    out = bytearray(data.replace(b"edts", b"free"))  # the edit list would cut it at the end of the real video
    at = data.index(b"stts") + 8
    (entries,) = struct.unpack_from(">I", out, at)
    assert entries == 1
    frames, _ = struct.unpack_from(">II", out, at + 4)
    (timescale,) = struct.unpack_from(">I", out, data.index(b"mdhd") + 16)
    struct.pack_into(">I", out, at + 8, seconds * timescale // frames)
    return bytes(out)


def test_a_small_file_whose_index_says_ten_hours_is_refused(server: Process, video: Path) -> None:
    data = with_index_of(video.read_bytes(), 10 * HOUR_S)
    assert len(data) == video.stat().st_size
    refused(ask_about(server, data), 400, "the video is longer than the times that this model can write. Send a part")
    refused(ask_about(server, with_index_of(video.read_bytes(), 13 * HOUR_S)), 400, "more than max_duration_s (43200)")


# -- names and paths


@pytest.mark.parametrize(
    "name", ["../../../../escaped.mp4", "..\\..\\escaped.mp4", "/escaped.mp4", "%2e%2e%2fescaped.mp4"]
)
def test_an_uploads_name_is_no_path(server: Process, video: Path, place: Path, name: str) -> None:
    file = server.upload(video.read_bytes(), name).body
    assert "/" not in file["filename"] and "\\" not in file["filename"]
    assert server.ask(question(file["id"])).status == 200
    (store,) = (place / "server").glob("timeexpert-serve-*")
    assert all(len(kept.name) == 64 and kept.name.isalnum() for kept in store.iterdir())
    for folder in (Path("/"), place, *place.parents):
        assert not (folder / "escaped.mp4").exists()


@pytest.mark.parametrize(
    "id",
    [
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e%2f%2e%2e%2fconfig.json",
        "file-../../config.json",
        "%00",
        ".",
    ],
)
def test_an_id_is_no_path(server: Process, id: str) -> None:
    for method, path in (
        ("GET", f"/v1/files/{id}"),
        ("GET", f"/v1/files/{id}/content"),
        ("DELETE", f"/v1/files/{id}"),
        ("GET", f"/samples/{id}/content"),
        ("GET", f"/page/{id}"),
    ):
        assert server.send(method, path).status in (404, 405)
    refused(server.ask(question(f"file-{id}")), 404, "no such file; it was deleted or has expired")
    refused(server.ask(question(f"sample-{id}")), 404, "no such sample")


def test_no_path_leads_out_of_the_folder(server: Process, place: Path) -> None:
    folder = place / "media"
    secret = write_video(place / "secret.mp4", num_frames=10)
    (folder / "link.mp4").symlink_to(secret)
    (folder / "up").symlink_to("..")
    for address in (
        f"file://{folder}/../secret.mp4",
        f"file://{folder}/%2e%2e/secret.mp4",
        f"file://{folder}/%2e%2e%2fsecret.mp4",
        f"file://{folder}/%252e%252e%252fsecret.mp4",
        f"file://{folder}/clip.mp4/../../secret.mp4",
        f"file://{folder}/link.mp4",
        f"file://{folder}/up/secret.mp4",
        f"file://{folder}//../secret.mp4",
        f"FILE://localhost{folder}/../secret.mp4",
        f"file:///proc/self/cwd/../../{secret}",
        f"file:///proc/{server.running.pid}/environ",
        "file:///dev/zero",
        secret.as_uri(),
    ):
        refused(server.ask(question(address)), 400, "file:// must name a file inside the folder of")
    assert server.ask(question(f"file://{folder}/clip.mp4")).status == 200


def test_a_link_that_comes_and_goes_leads_nowhere(server: Process, place: Path) -> None:
    """One file and a link to a secret take turns under one name, as fast as they can."""
    folder = place / "media"
    secret = write_video(place / "longer.mp4", num_frames=10)
    inside, ready = (folder / "clip.mp4").read_bytes(), folder / "ready.mp4"
    swapped, stop = folder / "swapped.mp4", threading.Event()
    swapped.write_bytes(inside)

    def swap() -> None:
        while not stop.is_set():
            ready.symlink_to(secret)
            os.replace(ready, swapped)
            ready.write_bytes(inside)
            os.replace(ready, swapped)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        replies = [server.ask(question(swapped.as_uri(), f"When {i}?")) for i in range(40)]
    finally:
        stop.set()
        swapping.join()
    for reply in replies:
        if reply.status == 200:
            assert reply.body["choices"][0]["message"]["duration_s"] == 1.0  # the secret lasts 2 s
        else:
            assert reply.status == 400 and reply.message.startswith("video_url: "), reply.body


# -- addresses


def test_loopback_is_not_reached_though_it_is_listed(server: Process, canary: Host) -> None:
    before = server.connected
    for address in (f"http://127.0.0.1:{canary.server_port}/v.mp4", f"http://localhost:{canary.server_port}/v.mp4"):
        refused(server.ask(question(address)), 400, "is not on a public address; private networks are not asked")
    assert server.connected == before and canary.asked == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]", "0.0.0.0", "2130706433"]
)
def test_a_redirect_to_a_private_address_is_not_followed(server: Process, canary: Host, host: str) -> None:
    before = len(server.connected)
    reply = server.ask(question(f"http://a.org/to?http://{host}:{canary.server_port}/v.mp4"))
    assert reply.status == 400
    assert "is not on a public address" in reply.message or "is not one of --allowed-media-domains" in reply.message
    assert server.connected[before:] == [f"{PUBLIC}:80"] and canary.asked == []


def test_a_redirect_to_a_file_is_not_followed(server: Process, place: Path) -> None:
    refused(server.ask(question(f"http://a.org/to?file://{place}/media/clip.mp4")), 400, "must be http://HOST/")


def test_a_name_that_is_bound_anew_is_checked_where_it_is_connected_to(
    server: Process, canary: Host, outside: Host
) -> None:
    before = len(server.connected)
    assert server.ask(question("http://rebinding.org/v.mp4")).status == 200  # asked once: the public address
    refused(server.ask(question("http://rebinding.org/v.mp4")), 400, "rebinding.org is not on a public address")
    again = question("http://rebinding.org/to?http://rebinding.org/v.mp4")  # public at first, then private
    refused(server.ask(again), 400, "rebinding.org is not on a public address")
    assert server.connected[before:] == [f"{PUBLIC}:80"] * 2 and canary.asked == []
    assert [host for host, _ in outside.asked].count("rebinding.org") == 2


def test_a_host_that_trickles_is_given_up(server: Process) -> None:
    refused(server.ask(question("http://a.org/trickle")), 400, "the video did not arrive within 3 s.")
    refused(server.ask(question("http://a.org/gzip")), 400, "a.org sent a compressed body, which was not asked for")
    refused(server.ask(question("http://a.org/huge")), 413, "the video at a.org has more than 536870912 bytes")


# -- slow and oversized


def answer_to(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while part := connection.recv(65536):
            answer += part
    except ConnectionResetError:
        pass  # it lingered long enough for us to read the answer
    return answer


JSON_HEAD = head("Content-Type: application/json", "Content-Length: 1000")
FORM_HEAD = head(
    "Content-Type: multipart/form-data; boundary=cut", "Content-Length: 1000", start="POST /v1/files HTTP/1.1"
)


def test_slow_clients_are_given_up_and_hold_nobody_up(server: Process, video: Path) -> None:
    slow = {
        b"GET /healthz HTTP/1.1\r\nHost: local": "the headers did not arrive within 1 s.",
        JSON_HEAD + b"{": "the body did not arrive within 2 s.",
        FORM_HEAD + b"--cut\r\n": "the body did not arrive within 2 s.",
    }
    connections = []
    for start, words in slow.items():
        for _ in range(20):
            connections.append((socket.create_connection(server.address, timeout=30), words))
            connections[-1][0].sendall(start)
    assert ask_about(server, video.read_bytes()).status == 200  # while 60 of them wait
    for connection, words in connections:
        with connection:
            answer = answer_to(connection)
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n") and words in answer.decode(), answer


def test_oversized_bodies_are_refused_by_their_length(server: Process) -> None:
    for path, kind, most in (
        ("/v1/chat/completions", "application/json", 64 * 2**20),
        ("/v1/files", "multipart/form-data; boundary=cut", 512 * 2**20 + 64 * 2**10),
    ):
        start = f"POST {path} HTTP/1.1"
        with socket.create_connection(server.address, timeout=30) as connection:
            connection.sendall(head(f"Content-Type: {kind}", f"Content-Length: {most + 1}", start=start))
            answer = answer_to(connection)
        assert answer.startswith(b"HTTP/1.1 413 ") and f"at most {most} are read".encode() in answer
        with socket.create_connection(server.address, timeout=30) as connection:
            connection.sendall(head(f"Content-Type: {kind}", "Transfer-Encoding: chunked", start=start))
            try:
                for _ in range(100):
                    connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            except OSError:
                pass  # it is not read for long
            answer = answer_to(connection)
        assert answer.startswith(b"HTTP/1.1 411 ") and b"send the body with one Content-Length, not in chunks" in answer


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 2", "Transfer-Encoding: chunked"],
        ["Content-Length: 2", "Content-Length: 20"],
        ["Content-Length: +2"],
        ["Content-Length : 2"],
        ["Transfer-Encoding: gzip"],
    ],
)
def test_a_body_of_two_lengths_is_one_refused_request(server: Process, lines: list[str]) -> None:
    smuggled = b"0\r\n\r\nGET /v1/files HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(head("Content-Type: application/json", *lines) + smuggled)
        answer = answer_to(connection)
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.split(b" ")[1] in (b"400", b"411", b"501"), answer


@pytest.mark.parametrize("charset", ["undefined", "idna", "utf-7", "punycode", "hex", "zip", "no-such", "utf-16"])
def test_a_forms_charset_fails_nothing(server: Process, charset: str) -> None:
    body = (
        b'--cut\r\nContent-Disposition: form-data; name="file\xff"; filename="a+AGE-\xfe.mp4"\r\n\r\nx\r\n--cut--\r\n'
    )
    kind = f"multipart/form-data; boundary=cut; charset={charset}"
    reply = server.send("POST", "/v1/files", body, Content_Type=kind)
    assert reply.status == 400 and len(reply.message) > 20


def test_a_forms_headers_have_bounds(server: Process) -> None:
    for part in (b"A" * 2_000_000 + b": x", b"A: " + b"x" * 2_000_000, b"\r\n".join(b"A%d: x" % i for i in range(999))):
        body = (
            b"--cut\r\n"
            + part
            + b'\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--cut--\r\n'
        )
        reply = server.send("POST", "/v1/files", body, Content_Type="multipart/form-data; boundary=cut")
        assert reply.status == 400 and len(reply.message) > 10


# -- answers in a browser


def test_every_answer_tells_browsers_to_guess_frame_and_run_nothing(server: Process, video: Path) -> None:
    file_id = server.upload(video.read_bytes()).body["id"]
    answers = {
        "page": server.fetch("GET", "/"),
        "script": server.fetch("GET", "/page/page.js"),
        "json": server.fetch("GET", "/v1/models"),
        "metrics": server.fetch("GET", "/metrics"),
        "video": server.fetch("GET", f"/v1/files/{file_id}/content"),
        "range": server.fetch("GET", f"/v1/files/{file_id}/content", Range="bytes=0-9"),
        "refused": server.fetch("POST", "/v1/chat/completions", b"{"),
        "nowhere": server.fetch("GET", "/<script>"),
        "method": server.fetch("PUT", "/"),
        "foreign": server.fetch("GET", "/", Host="evil.example"),
        "late range": server.fetch("GET", f"/v1/files/{file_id}/content", Range="bytes=999999999-"),
    }
    for name, (response, _) in answers.items():
        assert response.headers["X-Content-Type-Options"] == "nosniff", name
        assert response.headers["Referrer-Policy"] == "no-referrer", name
        assert len(response.headers.get_all("Content-Security-Policy")) == 1, name
        rules = response.headers["Content-Security-Policy"].split("; ")
        assert "default-src 'none'" in rules and "frame-ancestors 'none'" in rules, name
        assert ("script-src 'self'" in rules) == (name in ("page", "script")), name
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(b"no HTTP\r\n\r\n")
        answer = answer_to(connection).decode()
    assert "X-Content-Type-Options: nosniff\r\n" in answer and "frame-ancestors 'none'" in answer


@pytest.mark.parametrize(
    "name", ["page.html", "page.htm", "page.mp4", "page.svg", "page.xhtml", "page", "page.js", "a.pdf"]
)
def test_an_uploaded_page_is_never_one(server: Process, name: str) -> None:
    page = b"<!doctype html><script>alert(1)</script>"
    file_id = server.upload(page, name).body["id"]
    response, body = server.fetch("GET", f"/v1/files/{file_id}/content")
    assert body == page
    assert response.headers["Content-Type"] in ("application/octet-stream", "video/mp4")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]


def test_what_is_asked_in_json_is_answered_in_json(server: Process) -> None:
    reply = server.fetch("GET", "/v1/files/<script>alert(1)<%2fscript>")
    assert reply[0].headers["Content-Type"] == "application/json" and json.loads(reply[1])["error"]
