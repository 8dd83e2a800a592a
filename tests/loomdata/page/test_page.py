"""The page in a browser: two rounds by keyboard, decisions that outlive a reload, and nothing from elsewhere."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from tests.serving.page.browser import Tab
from timeexpert.loomdata.review import reviews

from .conftest import MARKUP, SHOWN, make_masks


def where(tab: Tab) -> str:
    return tab.text("#where")


def press(tab: Tab, key: str, expected: str) -> None:
    """Press a key and wait for what is then said of the place, and for its pictures."""
    tab.press(key)
    tab.until(f"document.querySelector('#where').textContent.startsWith({json.dumps(expected)})")
    tab.until(SHOWN)


def kept(out: Path) -> dict[str, dict[int, dict[int, str]]]:
    return {review.key: review.decisions for review in reviews(out / "videos")}


def test_two_rounds_are_decided_by_keyboard(tab: Tab, out: Path, tmp_path: Path) -> None:
    assert where(tab) == "a.mp4, shot 2 of 3, 4.0 s to 6.0 s"
    assert tab.text("#question") == "This shot has no mask. Is the person of the first picture in it?"
    assert "(0 of 3)" in tab.text("#round-1") and tab.text("#remove") == ""
    press(tab, "a", "c.mp4, shot 1 of 3")
    press(tab, "a", "c.mp4, shot 2 of 3")
    tab.press("x")
    tab.until("document.querySelector('#done h2').textContent === 'Round 1 has nothing to decide'")
    assert "1 dropped" in tab.text("#totals")
    press(tab, "2", "a.mp4, shot 1 of 3")
    assert "(0 of 5)" in tab.text("#round-2")
    press(tab, "a", "a.mp4, shot 3 of 3")
    press(tab, "r", "b.mp4, shot 1 of 3")
    press(tab, "a", "b.mp4, shot 2 of 3")
    press(tab, "a", "b.mp4, shot 3 of 3")
    tab.press("a")
    tab.until("document.querySelector('#done h2').textContent === 'Every shot is decided'")
    assert tab.text("#totals") == "videos: 2 verified, 1 dropped, 0 open"
    assert kept(out) == {
        "a-1": {1: {1: "accept"}, 2: {0: "accept", 2: "remove"}},
        "b-1": {1: {}, 2: {0: "accept", 1: "accept", 2: "accept"}},
        "c-1": {1: {0: "accept", 1: "reject"}, 2: {}},
    }
    assert [review.state_after(2) for review in reviews(out / "videos")] == ["passed", "passed", "rejected"]


def test_pictures_are_shown_with_their_words(tab: Tab) -> None:
    tab.until("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert tab.js("document.querySelector('#reference').naturalHeight") == 90
    assert tab.text("figcaption") == "The person: person a"


def test_decisions_outlive_a_reload_and_can_be_taken_back(tab: Tab, url: str, out: Path) -> None:
    press(tab, "a", "c.mp4, shot 1 of 3")
    tab.open(f"{url}/?again")
    tab.until(f"!document.querySelector('#item').hidden && {SHOWN}")
    assert where(tab).startswith("c.mp4, shot 1")
    press(tab, "ArrowLeft", "a.mp4, shot 2")
    assert tab.text("#status") == "1 of 3 in this round; accepted"
    assert tab.js("document.querySelector('#accept').getAttribute('aria-pressed')") == "true"
    tab.press("u")
    tab.until("document.querySelector('#status').textContent.endsWith('open')")
    assert kept(out)["a-1"] == {1: {}, 2: {}}


def test_buttons_do_what_keys_do_and_a_rejected_video_can_come_back(tab: Tab, out: Path) -> None:
    press(tab, "ArrowRight", "c.mp4, shot 1 of 3")
    tab.click("#reject")
    tab.until("document.querySelector('#totals').textContent.includes('1 dropped')")
    assert "(1 of 2)" in tab.text("#round-1")  # the rest of the video need not be looked at
    tab.until(f"document.querySelector('#where').textContent.startsWith('a.mp4') && {SHOWN}")
    press(tab, "ArrowRight", "c.mp4, shot 1 of 3")
    tab.click("#undo")
    tab.until("document.querySelector('#round-1').textContent.includes('(0 of 3)')")
    assert kept(out)["c-1"] == {1: {}, 2: {}}


def test_texts_are_never_html(tab: Tab) -> None:
    press(tab, "ArrowRight", "c.mp4, shot 1 of 3")
    assert tab.text("#description") == MARKUP and tab.js("document.title") == "Verify masks"


def test_a_key_before_the_picture_is_there_decides_nothing(tab: Tab, out: Path) -> None:
    tab.js("document.querySelector('#shot').classList.add('loading')")
    tab.press("a")
    assert tab.js("getComputedStyle(document.querySelector('#shot')).visibility") == "hidden"
    assert where(tab).startswith("a.mp4, shot 2") and kept(out)["a-1"] == {1: {}, 2: {}}
    tab.js("document.querySelector('#shot').classList.remove('loading')")
    press(tab, "a", "c.mp4, shot 1 of 3")
    assert kept(out)["a-1"] == {1: {1: "accept"}, 2: {}}


def test_masks_that_were_made_anew_are_not_decided_by_an_old_page(tab: Tab, out: Path, tmp_path: Path) -> None:
    press(tab, "a", "c.mp4, shot 1 of 3")
    make_masks(tmp_path / "other", "a", [0, 1])
    (tmp_path / "other" / "a-1" / "review.json").replace(out / "videos" / "a-1" / "review.json")
    press(tab, "ArrowLeft", "a.mp4, shot 2")
    tab.press("x")
    tab.until("!document.querySelector('#problem').hidden")
    assert tab.text("#problem") == "the masks of this video are others by now. Load the page again."
    (review,) = [review for review in reviews(out / "videos") if review.key == "a-1"]
    assert review.decisions == {1: {}, 2: {}}  # those about the old masks no longer count
    assert json.loads((out / "videos" / "a-1" / "decisions.json").read_text())["rounds"]["1"] == {"1": "accept"}


def test_it_is_readable_on_a_small_screen_and_in_the_dark(tab: Tab) -> None:
    for size, scheme in (((1280, 900), "dark"), ((390, 800), "light")):
        tab.size(*size, mobile=size[0] < 500)
        tab.prefer(scheme)
        assert tab.js("document.documentElement.scrollWidth <= window.innerWidth")
        paper = tab.js("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(15, 18, 22)" if scheme == "dark" else "rgb(244, 246, 248)")


# --- what comes past the page -----------------------------------------------------------------------------------


def ask(url: str, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.request(method, path, body or None, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    text = response.read().decode("utf-8", "replace")
    connection.close()
    return response.status, text, dict(response.getheaders())


@pytest.mark.parametrize(
    "path",
    [
        "/pictures/a-1/..%2Freview.json",
        "/pictures/a-1/../review.json",
        "/pictures/../a-1/shot-0.jpg",
        "/pictures/%2e%2e/videos/x",
        "/pictures/a-1/review.json",
        "/pictures/no/shot-0.jpg",
        "/page/..%2Fverify_app.py",
        "/page/%2Fetc%2Fpasswd",
        "/page/",
        "/videos/",
    ],
)
def test_no_path_leaves_its_folder(url: str, path: str) -> None:
    assert ask(url, "GET", path)[0] == 404


def test_the_page_allows_its_own_files_alone(url: str) -> None:
    status, _, headers = ask(url, "GET", "/")
    policy = headers["content-security-policy"]
    assert status == 200 and "default-src 'none'" in policy and "script-src 'self'" in policy
    assert ask(url, "GET", "/pictures/a-1/shot-0.jpg")[2]["x-content-type-options"] == "nosniff"


def test_other_names_and_other_pages_are_refused(url: str, out: Path) -> None:
    assert ask(url, "GET", "/videos", Host="evil.example")[0] == 403
    (review, *_) = reviews(out / "videos")
    row = {"video": "a-1", "tracks": review.tracks, "round": 1, "shot": 1, "decision": "accept"}
    assert ask(url, "POST", "/decisions", json.dumps(row), Origin="http://evil.example")[0] == 403
    assert kept(out)["a-1"] == {1: {}, 2: {}}
    assert ask(url, "POST", "/decisions", json.dumps(row))[0] == 200


def test_decisions_that_are_none_are_refused_with_words(url: str, out: Path) -> None:
    (review, *_) = reviews(out / "videos")
    good = {"video": "a-1", "tracks": review.tracks, "round": 1, "shot": 1, "decision": "accept"}
    for change, status, words in (
        ({"decision": "remove"}, 409, "must be one of accept, reject in round 1"),
        ({"decision": 3}, 400, "decision may be null"),
        ({"shot": 0}, 409, "round 1 does not ask about shot 0"),
        ({"shot": True}, 400, "shot a number"),
        ({"round": 2, "shot": 0}, 409, "round 2 does not ask about shot 0"),
        ({"round": 3}, 400, "round must be 1 or 2"),
        ({"round": []}, 400, "round must be 1 or 2"),
        ({"video": "../videos/a-1"}, 409, "no such video"),
        ({"video": ".."}, 409, "no such video"),
        ({"tracks": "x"}, 409, "masks of this video are others"),
        ({"more": 1}, 400, "an object with video, tracks, round, shot, decision"),
    ):
        got, text, _ = ask(url, "POST", "/decisions", json.dumps({**good, **change}))
        assert got == status and words in json.loads(text)["error"]["message"], change
    assert ask(url, "POST", "/decisions", "{")[0] == 400
    assert ask(url, "POST", "/decisions", "x" * 5000)[0] == 413
    assert ask(url, "GET", "/decisions")[0] in (404, 405)
    assert not (out / "videos" / "a-1" / "decisions.json").exists()
