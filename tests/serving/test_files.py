"""Uploads and samples: ids, ranges, quota, expiry; what leaves nothing behind."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from timeexpert.errors import UserError
from timeexpert.serving.limits import RequestError, ServingLimits
from timeexpert.serving.samples import read_samples
from timeexpert.serving.store import Store, Uploads, shown_name

from ..data.media import write_video
from .conftest import Client, Servers, data_url, question
from .test_http import head, until
from .test_refusals import refused


@pytest.fixture(scope="module")
def uploaded(client: Client, video: Path) -> dict[str, Any]:
    return client.upload(video.read_bytes(), "clip.mp4").body


def test_an_upload_is_a_file_object(client: Client, video: Path, uploaded: dict[str, Any]) -> None:
    assert uploaded["object"] == "file" and uploaded["bytes"] == len(video.read_bytes())
    assert (uploaded["filename"], uploaded["purpose"], uploaded["status"]) == ("clip.mp4", "user_data", "processed")
    assert uploaded["expires_at"] - uploaded["created_at"] == 24 * 3600
    assert client.send("GET", f"/v1/files/{uploaded['id']}").body == uploaded
    assert uploaded in client.send("GET", "/v1/files").body["data"]


def test_an_upload_is_asked_about_by_its_id(client: Client, video: Path, uploaded: dict[str, Any]) -> None:
    expected = client.ask(question(data_url(video.read_bytes()))).body["choices"][0]["message"]
    by_url = question(uploaded["id"])
    by_file = json.loads(json.dumps(by_url))
    by_file["messages"][0]["content"][0] = {"type": "file", "file": {"file_id": uploaded["id"]}}
    for body in (by_url, by_file):
        message = client.ask(body).body["choices"][0]["message"]
        assert {**message, "timings": None} == {**expected, "timings": None}


def test_a_player_gets_ranges(client: Client, video: Path, uploaded: dict[str, Any]) -> None:
    data, path = video.read_bytes(), f"/v1/files/{uploaded['id']}/content"
    response, whole = client.fetch("GET", path)
    assert (response.status, whole, response.headers["Content-Type"]) == (200, data, "video/mp4")
    assert "sandbox" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    response, part = client.fetch("GET", path, Range="bytes=100-199")
    assert (response.status, part) == (206, data[100:200])
    assert response.headers["Content-Range"] == f"bytes 100-199/{len(data)}"
    assert client.fetch("GET", path, Range="bytes=-10")[1] == data[-10:]
    refused(client.send("GET", path, Range=f"bytes={len(data)}-"), 416, "Range must be one like bytes=0-1023")
    refused(client.send("GET", path, Range="bytes=5-2"), 400, "Range must be one like bytes=0-1023")
    refused(client.send("GET", path, Range="bytes=x"), 400, "Range must be one like bytes=0-1023")


def test_a_deleted_upload_is_gone_from_disk(servers: Servers, video: Path) -> None:
    client = servers.start()
    first, second = (client.upload(video.read_bytes(), name).body["id"] for name in ("a.mp4", "b.mp4"))
    assert len(list(client.service.store.folder.iterdir())) == 1  # equal contents share a file
    for left, file_id in ((1, first), (0, second)):
        assert client.send("DELETE", f"/v1/files/{file_id}").body == {"id": file_id, "object": "file", "deleted": True}
        assert len(list(client.service.store.folder.iterdir())) == left
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            refused(client.send(method, f"/v1/files/{file_id}{path}"), 404, "no such file; it was deleted or has exp")
        refused(client.ask(question(file_id)), 404, "no such file")
    assert client.service.store.used_bytes == 0
    refused(client.ask(question("file-../../etc/passwd")), 404, "no such file")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("<img src=x onerror=alert(1)>.mp4", "<img src=x onerror=alert(1)>.mp4"),  # text, and shown as text
        ("a\x00b\r\nc\x1b[31m\u202e.mp4", "abc[31m.mp4"),
        ("/", "video"),
        ("", "video"),
        ("x" * 999, "x" * 200),
    ],
)
def test_a_name_is_for_display_and_never_a_path(tmp_path: Path, given: str, shown: str) -> None:
    assert shown_name(given) == shown
    uploads = Uploads(Store(tmp_path, 100), ServingLimits())
    uploads.add([b"x"], given, "user_data")
    (kept,) = tmp_path.iterdir()
    assert len(kept.name) == 64 and kept.name.isalnum()


def test_names_travel_in_headers_encoded(client: Client) -> None:
    file_id = client.upload(b"x", 'a\u202e"ü;.html').body["id"]
    response, _ = client.fetch("GET", f"/v1/files/{file_id}/content")
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert "%C3%BC%3B.html" in response.headers["Content-Disposition"]


def test_uploads_have_a_quota(tmp_path: Path) -> None:
    store = Store(tmp_path, 100)
    uploads = Uploads(store, ServingLimits(max_files=2, max_files_bytes=50))
    uploads.add([b"x" * 20], "a", "p")
    for size, words in ((31, "is used up"), (81, "is used up"), (0, "the video is empty")):
        with pytest.raises(RequestError, match=words):
            uploads.add([b"y" * (size // 2), b"y" * (size - size // 2)], "b", "p")
        assert store.used_bytes == 20 and len(list(tmp_path.iterdir())) == 1
    uploads.add([b"z"], "c", "p")
    with pytest.raises(RequestError, match="is used up"):
        uploads.add([b"z"], "d", "p")
    assert store.used_bytes == 21


def test_uploads_expire_but_not_while_they_are_read(tmp_path: Path) -> None:
    now = 1000.0
    store = Store(tmp_path, 100)
    uploads = Uploads(store, ServingLimits(file_expiry_s=60), lambda: now)
    file = uploads.add([b"x"], "a", "p")
    lease = uploads.lease(file.id)
    now = 1060.0
    assert uploads.list() == []
    with pytest.raises(RequestError, match="has expired"):
        uploads.get(file.id)
    assert lease.blob.path.read_bytes() == b"x"
    store.release(lease.blob)
    assert not list(tmp_path.iterdir()) and store.used_bytes == 0


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, 100)

    def broken() -> Any:
        yield b"xxx"
        raise RequestError("the host went away")

    with pytest.raises(RequestError, match="went away"):
        store.write(broken())
    assert not list(tmp_path.iterdir()) and store.used_bytes == 0


def test_forms_that_are_no_upload_are_refused(servers: Servers) -> None:
    client = servers.start(max_upload_bytes=1000)
    form = {"Content_Type": "multipart/form-data; boundary=cut"}

    def part(name: str, value: str, more: str = "") -> str:
        return f'--cut\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'

    file = part("file", "x", '; filename="a"')
    for body, status, words in (
        (part("purpose", "x"), 400, "must have one file in the field 'file'"),
        (part("file", "no file name"), 400, "must have one file in the field 'file'"),
        (file + part("expires_after", "1"), 400, "unknown field 'expires_after'"),
        (file + file, 400, "Too many files"),
        (file + part("purpose", "x") * 9, 400, "Too many fields"),
        (file + part("purpose", "x" * 5000), 400, "Part exceeded maximum size"),
        ("no parts", 400, ""),
    ):
        reply = client.send("POST", "/v1/files", (body + "--cut--\r\n").encode(), **form)
        refused(reply, status, words)
    refused(client.upload(b"x" * 70_000), 413, "at most 66536 are read (--max-upload-mb)")
    refused(client.send("POST", "/v1/files", b"{}"), 415, "Content-Type must be multipart/form-data")
    refused(client.send("POST", "/v1/files", b"x", Content_Type="multipart/form-data"), 400, "boundary")
    assert client.send("GET", "/v1/files").body["data"] == []


def test_a_slow_upload_is_given_up(servers: Servers) -> None:
    client = servers.start(upload_timeout_s=0.2, linger_s=0.1)
    with socket.create_connection(client.address, timeout=10) as connection:
        lines = ("Content-Type: multipart/form-data; boundary=cut", "Content-Length: 1000")
        connection.sendall(head(*lines, start="POST /v1/files HTTP/1.1") + b"--cut\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
    until(lambda: client.service.pending_uploads.used_bytes == 0)


def test_an_upload_that_breaks_off_leaves_nothing(servers: Servers) -> None:
    client = servers.start()
    with socket.create_connection(client.address, timeout=10) as connection:
        lines = ("Content-Type: multipart/form-data; boundary=cut", "Content-Length: 100000")
        connection.sendall(head(*lines, start="POST /v1/files HTTP/1.1") + b"--cut\r\n")
        until(lambda: client.service.pending_uploads.used_bytes == 100_000)
    until(lambda: client.service.pending_uploads.used_bytes == 0)
    assert client.service.store.used_bytes == 0


# -- samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_video(tmp_path / "b.mp4", num_frames=5)
    write_video(tmp_path / "a.webm", num_frames=10)
    (tmp_path / "notes.txt").write_text("not offered")
    (tmp_path / "prompts.json").write_text('{"b.mp4": ["When does it start?"]}')
    return tmp_path


def test_samples_are_offered_played_and_asked_about(servers: Servers, folder: Path) -> None:
    client = servers.start({"samples": folder})
    rows = client.send("GET", "/samples").body
    assert [(row["name"], row["duration_s"], row["prompts"]) for row in rows] == [
        ("a", 2.0, []),
        ("b", 1.0, ["When does it start?"]),
    ]
    path = f"/samples/{rows[1]['id']}/content"
    response, part = client.fetch("GET", path, Range="bytes=4-7")
    assert (response.status, part) == (206, b"ftyp")
    assert client.ask(question(rows[1]["id"])).body["choices"][0]["message"]["duration_s"] == 1.0
    refused(client.ask(question("sample-0")), 404, "no such sample; GET /samples lists them.")
    refused(client.send("GET", "/samples/..%2fnotes.txt/content"), 404, "nothing is served at this path")
    (folder / "b.mp4").unlink()
    refused(client.send("GET", path), 404, "no such sample")


def test_a_server_without_samples_says_so(client: Client) -> None:
    assert client.send("GET", "/samples").body == []


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.mp4", "no video", r"--samples .*c.mp4: not a readable video.*Take it out of the folder"),
        ("prompts.json", "{", r"prompts.json: cannot be read: not JSON"),
        ("prompts.json", '{"b.mp4": "one"}', r"prompts.json must hold lists of questions by file name"),
        ("prompts.json", '{"x.mp4": []}', r"prompts.json: no video 'x.mp4' in that folder"),
    ],
)
def test_a_folder_that_cannot_be_offered_says_why(folder: Path, name: str, text: str, words: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=words):
        read_samples(folder)
