"""Answers as a browser reads them: nothing that was sent here is taken for a page."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from .conftest import Client, answer_to


def test_every_answer_tells_browsers_to_guess_frame_and_run_nothing(client: Client, video: Path) -> None:
    file_id = client.upload(video.read_bytes()).body["id"]
    answers = {
        "page": client.fetch("GET", "/"),
        "script": client.fetch("GET", "/page/page.js"),
        "json": client.fetch("GET", "/v1/models"),
        "metrics": client.fetch("GET", "/metrics"),
        "video": client.fetch("GET", f"/v1/files/{file_id}/content"),
        "range": client.fetch("GET", f"/v1/files/{file_id}/content", Range="bytes=0-9"),
        "refused": client.fetch("POST", "/v1/chat/completions", b"{"),
        "nowhere": client.fetch("GET", "/<script>"),
        "method": client.fetch("PUT", "/"),
        "foreign": client.fetch("GET", "/", Host="evil.example"),
        "late range": client.fetch("GET", f"/v1/files/{file_id}/content", Range="bytes=999999999-"),
    }
    for name, (response, _) in answers.items():
        assert response.headers["X-Content-Type-Options"] == "nosniff", name
        assert response.headers["Referrer-Policy"] == "no-referrer", name
        assert len(response.headers.get_all("Content-Security-Policy")) == 1, name
        rules = response.headers["Content-Security-Policy"].split("; ")
        assert "default-src 'none'" in rules and "frame-ancestors 'none'" in rules, name
        assert ("script-src 'self'" in rules) == (name in ("page", "script")), name
    with socket.create_connection(client.address, timeout=30) as connection:
        connection.sendall(b"no HTTP\r\n\r\n")
        answer = answer_to(connection).decode()
    assert "X-Content-Type-Options: nosniff\r\n" in answer and "frame-ancestors 'none'" in answer


@pytest.mark.parametrize(
    "name", ["page.html", "page.htm", "page.mp4", "page.svg", "page.xhtml", "page", "page.js", "a.pdf"]
)
def test_an_uploaded_page_is_never_one(client: Client, name: str) -> None:
    page = b"<!doctype html><script>alert(1)</script>"
    file_id = client.upload(page, name).body["id"]
    response, body = client.fetch("GET", f"/v1/files/{file_id}/content")
    assert body == page
    assert response.headers["Content-Type"] in ("application/octet-stream", "video/mp4")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]


def test_what_is_asked_in_json_is_answered_in_json(client: Client) -> None:
    reply = client.fetch("GET", "/v1/files/<script>alert(1)<%2fscript>")
    assert reply[0].headers["Content-Type"] == "application/json" and json.loads(reply[1])["error"]
