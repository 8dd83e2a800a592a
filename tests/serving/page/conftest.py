"""A browser, a stand-in server and a video that Chromium plays."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from .browser import Browser, Tab
from .stand_in import Script, StandIn, answer, event

PROMPT = "When does the red square move?"


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s of H.264, 10 frames a second, a key frame each second: a red square crosses a field."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for i in range(200):
            image = np.full((180, 320, 3), (38, 46, 56), np.uint8)
            image[::30], image[:, ::32] = (52, 62, 74), (52, 62, 74)
            image[70:110, 10 + i : 50 + i] = (214, 70, 60)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"no browser to test the page in: none of {', '.join(names)} is on the PATH")
    with Browser(program, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def script(clip: Path) -> Script:
    """Two segments that overlap nothing, streamed at once."""
    rows = answer(
        event(4.0, 9.0, "a red square moves", start=0.92, end=0.41),
        event(14.5, 18.0, "it leaves", 4.5, start=0.7, end=0.8, score=0.6),
    )
    script = Script(answers={PROMPT: rows}, samples={"sample-field": clip})
    script.gate.set()
    return script


@pytest.fixture
def server(script: Script) -> Iterator[StandIn]:
    started = StandIn(script)
    yield started
    started.shutdown()
    started.server_close()


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def only_tab(browser: Browser) -> Tab:
    return browser.tab()


@pytest.fixture
def tab(only_tab: Tab, server: StandIn, downloads: Path) -> Iterator[Tab]:
    """The page, opened; each server is an origin with storage of its own. Afterwards: no script failed, nothing was
    blocked, no other origin was asked."""
    opened = only_tab
    opened.reset(downloads)
    opened.open(server.url)
    opened.until(
        "document.querySelector('#model').textContent === 'tiny' || !document.querySelector('#problem').hidden"
    )
    yield opened
    failures = [row["exceptionDetails"]["text"] for row in opened.seen("Runtime.exceptionThrown")]
    blocked = [row["entry"]["text"] for row in opened.seen("Log.entryAdded") if row["entry"]["source"] == "security"]
    urls = [row["request"]["url"] for row in opened.seen("Network.requestWillBeSent")]
    assert failures == [] and blocked == []
    # data: is how Chromium draws the buttons of its own player
    assert [url for url in urls if not url.removeprefix("blob:").startswith((server.url, "data:"))] == []


def ask(tab: Tab, prompt: str) -> None:
    """Write a question and press Enter."""
    tab.js("document.querySelector('#prompt').value = ''; document.querySelector('#prompt').focus()")
    tab.write(prompt)
    tab.press("Enter")


def asked(tab: Tab, clip: Path, *prompts: str) -> None:
    """Upload a clip and have these questions answered."""
    tab.choose("#file", [clip])
    tab.until("document.querySelector('#player').readyState > 0")
    for i, prompt in enumerate(prompts or (PROMPT,), 1):
        ask(tab, prompt)
        tab.until(
            f"document.querySelectorAll('#timeline .row').length === {i} && !document.querySelector('#export').hidden"
        )
