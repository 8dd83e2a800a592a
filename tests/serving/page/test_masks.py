"""Masks over the player: decoded as Python decodes them, drawn where and when they are, put away by a key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from timeexpert.data.mask_rle import encode_rle
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.predict import Predictor

from ..conftest import Servers
from .browser import Tab
from .conftest import PROMPT, ask, asked
from .stand_in import Script, answer, event

HALF = np.zeros((9, 16), dtype=bool)
HALF[:, :8] = True
# The left half until 12 s, then the right one; beside it a square that is seen around 10 s alone.
SQUARE = np.zeros((9, 16), dtype=bool)
SQUARE[3:6, 12:15] = True
TRACKS = [
    MaskTrack.from_masks([HALF, HALF, ~HALF], [2.5, 7.5, 17.5], "the red square"),
    MaskTrack.from_masks([SQUARE], [10.0], "<b>other</b>"),
]
BLUE, ORANGE = [86, 180, 233], [255, 154, 92]


@pytest.fixture
def masked(script: Script, tab: Tab) -> Script:
    """The stand-in serves a model that draws masks, and answers with two objects."""
    script.draws_masks = True
    script.answers[PROMPT]["tracks"] = [track.to_json() for track in TRACKS]
    tab.call("Page.reload")
    tab.until("document.querySelector('#model').textContent === 'tiny'")
    return script


def pixel(tab: Tab, x: float, y: float) -> list[int]:
    """Red, green, blue and alpha of the overlay at a share of its width and height."""
    canvas = "document.querySelector('#masks')"
    where = f"{x} * {canvas}.width, {y} * {canvas}.height, 1, 1"
    return list(tab.js(f"[...{canvas}.getContext('2d').getImageData({where}).data]"))


def at(tab: Tab, time_s: float) -> None:
    tab.js(f"document.querySelector('#player').currentTime = {time_s}")
    tab.until(
        f"!document.querySelector('#player').seeking && document.querySelector('#player').currentTime === {time_s}"
    )


def test_run_lengths_are_decoded_as_the_python_codec_writes_them(tab: Tab) -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((h, w)) < share for h, w, share in ((5, 7, 0.5), (1, 1, 0.0), (1, 1, 1.0), (48, 64, 0.02))]
    masks += [np.kron(rng.random((3, 4)) < 0.5, np.ones((200, 150), bool)), np.zeros((4, 4)), np.ones((4, 4))]
    for mask in masks:
        rle = encode_rle(mask)
        call = f"decodeRle({json.dumps(rle['counts'])}, {mask.shape[0]}, {mask.shape[1]})"
        packed = f"import('/page/masks.js').then(({{decodeRle}}) => Array.from({call}).join(''))"
        assert tab.js(packed) == "".join(str(int(v)) for v in mask.ravel())


@pytest.mark.parametrize("counts", ["", "0", "o", "~", "0P3", "9", "\u00e9", "PPPPPPPPP", "-1", "5Ooooooooo"])
def test_run_lengths_that_are_none_are_an_error(tab: Tab, counts: str) -> None:
    call = f"import('/page/masks.js').then(({{decodeRle}}) => decodeRle({json.dumps(counts)}, 3, 2))"
    assert tab.js(f"{call}.then(() => 'decoded', (error) => error.message)").startswith("a mask ")


def test_masks_lie_over_the_picture_and_follow_its_time(tab: Tab, masked: Script, clip: Path) -> None:
    asked(tab, clip)
    assert masked.asked[0]["include_tracks"] is True
    at(tab, 3)
    assert pixel(tab, 0.25, 0.5)[:3] == pytest.approx(BLUE, abs=2) and 100 < pixel(tab, 0.25, 0.5)[3] < 160
    assert pixel(tab, 0.01, 0.01)[3] == 255 and pixel(tab, 0.75, 0.5) == [0, 0, 0, 0]
    at(tab, 10)  # of the first track 7.5 s is nearer; the second one is seen for a second
    assert pixel(tab, 13.5 / 16, 0.5)[:3] == pytest.approx(ORANGE, abs=2)
    at(tab, 15)
    assert pixel(tab, 0.25, 0.5)[3] == 0 and pixel(tab, 0.75, 0.5)[:3] == pytest.approx(BLUE, abs=2)
    video, canvas = tab.box("#player"), tab.box("#masks")
    shown = min(video["width"] / 320, video["height"] / 180)
    assert (canvas["width"], canvas["height"]) == pytest.approx((320 * shown, 180 * shown), abs=0.6)
    assert canvas["left"] - video["left"] == pytest.approx((video["width"] - 320 * shown) / 2, abs=0.6)
    names = tab.js("[...document.querySelectorAll('.object')].map((node) => node.textContent)")
    assert names == ["the red square", "<b>other</b>"]  # text stays text


def test_a_button_and_a_key_put_masks_away(tab: Tab, masked: Script, clip: Path) -> None:
    asked(tab, clip)
    assert tab.text("#mask-bar button") == "Hide masks"
    tab.click("#mask-bar button")
    assert tab.text("#mask-bar button") == "Show masks" and tab.js("document.querySelector('#masks').hidden")
    tab.press("m")
    assert not tab.js("document.querySelector('#masks').hidden")
    tab.js("document.querySelector('#prompt').focus()")
    tab.press("m")  # a letter, there
    assert not tab.js("document.querySelector('#masks').hidden")
    assert tab.js("document.querySelector('#prompt').value").endswith("m")
    tab.click("#player", at=(0.5, 0.3))  # the overlay lets clicks through
    tab.until("!document.querySelector('#player').paused")


def test_without_masks_nothing_of_them_is_on_the_page(tab: Tab, script: Script, clip: Path) -> None:
    asked(tab, clip)
    assert "include_tracks" not in script.asked[0]
    for selector in ("#mask-bar", "#masks", "#segmentation"):
        assert tab.js(f"document.querySelector('{selector}').hidden") is True
    tab.press("m")
    assert tab.js("document.querySelector('#masks').hidden") is True


def test_another_answer_has_its_own_masks_and_they_outlive_a_reload(tab: Tab, masked: Script, clip: Path) -> None:
    masked.answers["plain"] = answer(event(1, 2, "nothing to show"))
    asked(tab, clip, PROMPT, "plain")
    assert tab.js("document.querySelector('#mask-bar').hidden")
    tab.click(".row-name")
    tab.until("!document.querySelector('#mask-bar').hidden")
    tab.call("Page.reload")
    tab.until("document.querySelectorAll('#history-list button').length === 2")
    tab.click("#history-list button", 1)
    tab.until("document.querySelector('#player').readyState > 0")
    assert not tab.js("document.querySelector('#mask-bar').hidden")
    at(tab, 3)
    assert pixel(tab, 0.25, 0.5)[:3] == pytest.approx(BLUE, abs=2) and pixel(tab, 0.75, 0.5) == [0, 0, 0, 0]
    assert len(masked.asked) == 2  # nothing was asked again


def test_the_newest_masks_are_stored_and_an_older_answer_says_that_its_own_are_gone(
    tab: Tab, masked: Script, clip: Path
) -> None:
    asked(tab, clip)
    entry = "const {tracks, ...answer} = entry.answer; return {...entry, answer: {...answer, tracks: long}}"
    more = f"""import('/page/history.js').then((h) => {{
        const [entry] = h.readHistory();
        const long = [{{...entry.answer.tracks[0], rles: ["x".repeat(900_000), null, null]}}];
        const big = (() => {{ {entry} }})();
        h.writeHistory([{{...big, id: "a"}}, {{...big, id: "b"}}, entry, {{...big, id: "c"}}]);
        return h.readHistory().map((row) => [Boolean(row.answer.tracks), row.masksForgotten ?? false]) }})"""
    assert tab.js(more) == [[True, False], [True, False], [True, False], [False, True]]
    tab.call("Page.reload")
    tab.until("document.querySelectorAll('#history-list button').length === 4")
    tab.click("#history-list button", 3)
    tab.until("document.querySelector('#player').readyState > 0")
    assert tab.js("document.querySelector('#mask-bar').hidden")
    assert "The masks of this answer are no longer stored. Ask again to see them." in tab.text("#notes")
    tab.click("#history-list button", 2)
    assert tab.text("#notes") == "" and not tab.js("document.querySelector('#mask-bar').hidden")


def test_a_storage_that_is_full_keeps_the_answers_without_masks(tab: Tab, masked: Script, clip: Path) -> None:
    asked(tab, clip)
    full = """import('/page/history.js').then((h) => {
        const rows = h.readHistory(), set = Storage.prototype.setItem;
        Storage.prototype.setItem = function (name, text) {
            if (text.includes("rles")) throw new DOMException("full", "QuotaExceededError");
            set.call(this, name, text);
        };
        const kept = h.writeHistory(rows);
        Storage.prototype.setItem = set;
        return [kept[0].answer.tracks.length, h.readHistory().map((row) => row.masksForgotten)] })"""
    assert tab.js(full) == [2, [True]]


def test_a_mask_that_does_not_decode_is_said(tab: Tab, masked: Script, clip: Path) -> None:
    broken: dict[str, Any] = {**TRACKS[0].to_json(), "rles": ["o", None, None]}
    masked.answers["odd"] = answer(event(1, 2, "odd"), tracks=[broken])
    masked.answers["none"] = answer(event(1, 2, "none"), tracks=[{"size": [1]}])
    asked(tab, clip, "odd")
    tab.until("document.querySelector('#mask-bar').innerText.includes('Not drawn')")
    assert "Not drawn: a mask holds a character out of range or breaks off." in tab.text("#mask-bar")
    ask(tab, "none")
    tab.until("!document.querySelector('#problem').hidden")
    assert "The answer lacks what this page draws" in tab.text("#problem")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_bar_fits_a_phone(tab: Tab, masked: Script, clip: Path, scheme: str, tmp_path: Path) -> None:
    tab.prefer(scheme)
    tab.size(390, 844, mobile=True)
    asked(tab, clip)
    at(tab, 10)
    assert tab.js("document.documentElement.scrollWidth") == 390
    video, canvas, bar = tab.box("#player"), tab.box("#masks"), tab.box("#mask-bar")
    assert video["left"] <= canvas["left"] and canvas["right"] <= video["right"] + 0.6 and bar["right"] <= 390
    tab.picture(tmp_path / f"{scheme}.png")
    assert (tmp_path / f"{scheme}.png").stat().st_size > 10_000


@pytest.fixture
def address(drawing: None, model_folder: Path) -> Iterator[str]:
    """The server itself, around a model that draws what is bright in the red channel."""
    started = Servers(Predictor.from_pretrained(model_folder, device="cpu"))
    yield started.start({"draws_masks": True}).url + "/"
    started.stop()


def test_the_servers_own_masks_are_drawn(address: str, only_tab: Tab, clip: Path, downloads: Path) -> None:
    tab = only_tab
    tab.reset(downloads)
    tab.open(address)
    tab.until("document.querySelector('#model').textContent === 'tiny'")
    tab.js("document.querySelector('#task').value = 'referring_segmentation'")
    asked(tab, clip, "Segment the red square.")
    tab.until("document.querySelectorAll('.object').length === 1")
    at(tab, 2.5)  # a frame that the model saw: the square spans 35 to 75 of 320 pixels, 70 to 110 of 180
    assert pixel(tab, 55 / 320, 90 / 180)[3] > 100 and pixel(tab, 200 / 320, 90 / 180)[3] == 0
