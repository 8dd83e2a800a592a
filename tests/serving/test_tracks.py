"""Masks over HTTP: on request, and from models that draw them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.predict import Predictor

from .conftest import PROMPT, Client, Servers, data_url, question


@pytest.fixture
def drawer(drawing: None, model_folder: Path) -> Predictor:
    return Predictor.from_pretrained(model_folder, device="cpu")


@pytest.fixture
def server(drawer: Predictor) -> Iterator[Client]:
    started = Servers(drawer)
    yield started.start({"draws_masks": True})
    started.stop()


def test_tracks_come_on_request_and_equal_the_predictors(server: Client, drawer: Predictor, video: Path) -> None:
    (expected,) = drawer.ask(video, PROMPT).tracks
    body = question(data_url(video.read_bytes()), include_tracks=True)
    for _ in range(2):  # the second time the video is remembered
        (row,) = server.ask(body).body["choices"][0]["message"]["tracks"]
        assert MaskTrack.from_json(row) == expected and any(expected.rles)
    assert server.chunks(body)[-2]["choices"][0]["tracks"] == [expected.to_json()]
    assert "tracks" not in server.ask(question(data_url(video.read_bytes()))).body["choices"][0]["message"]
    assert server.send("GET", "/v1/models").body["data"][0]["draws_masks"] is True


@pytest.mark.parametrize("fields", [{"include_tracks": True}, {"task": "referring_segmentation"}])
def test_a_model_without_masks_says_so(client: Client, video: Path, fields: dict[str, object]) -> None:
    reply = client.ask(question(data_url(video.read_bytes()), **fields))
    assert reply.status == 400 and "this model draws no masks. Leave include_tracks out" in reply.message
    assert client.send("GET", "/v1/models").body["data"][0]["draws_masks"] is False


def test_a_flag_that_is_none_is_refused(client: Client, video: Path) -> None:
    reply = client.ask(question(data_url(video.read_bytes()), include_tracks="yes"))
    assert reply.status == 400 and "include_tracks ('yes') must be true or false." in reply.message
