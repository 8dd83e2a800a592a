"""The page of verification on a free port, over three videos whose masks are made up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from tests.serving.page.browser import Browser, Tab
from tests.serving.page.conftest import browser  # noqa: F401 (a fixture)
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.loomdata.review import write_review
from timeexpert.loomdata.shots import Shot
from timeexpert.loomdata.store import VideoState
from timeexpert.loomdata.verify_app import create_app
from timeexpert.serving.limits import ServingLimits
from timeexpert.serving.run import listen, url_of
from timeexpert.serving.wire import uvicorn_config

SHOTS = [Shot(0.0, 4.0), Shot(4.0, 6.0), Shot(6.0, 13.0)]
VIDEOS = {"a": [0, 2], "b": [0, 1, 2], "c": [2]}  # shots with a tracklet
SHOWN = "!document.querySelector('img.loading')"  # both pictures are there
MARKUP = "<img src=x onerror=\"document.title='owned'\">"


class Still:
    """In place of a video: the same field, a lighter bar where the person is."""

    def frames_at(self, times_s: list[float], size: tuple[int, int]) -> tuple[np.ndarray, None]:
        frame = np.full((90, 160, 3), (40, 70, 60), np.uint8)
        frame[20:80, 60:90] = (150, 140, 130)
        return np.array(Image.fromarray(frame).resize((size[1], size[0])))[None], None


def make_masks(folder: Path, name: str, tracklets: list[int]) -> None:
    """What the pipeline leaves for verification."""
    times = [i / 2 for i in range(26)]
    mask = np.zeros((90, 160), bool)
    mask[20:80, 60:90] = True
    shown = [any(SHOTS[i].start_s <= t < SHOTS[i].end_s for i in tracklets) for t in times]
    track = MaskTrack.from_masks([mask & one for one in shown], times)
    state = VideoState(f"{name}.mp4", folder / f"{name}-1", "x")
    state.folder.mkdir(parents=True)
    person = {"shot": 2, "time_s": 9.5, "box": [60, 20, 90, 80]}
    words = MARKUP if name == "c" else f"person {name}"
    write_review(state, Still(), track, SHOTS, tracklets, person, {"text": words})  # type: ignore[arg-type]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name, tracklets in VIDEOS.items():
        make_masks(tmp_path / "out" / "videos", name, tracklets)
    return tmp_path / "out"


@pytest.fixture
def url(out: Path) -> Iterator[str]:
    with listen("127.0.0.1", 0) as sock:
        server = uvicorn.Server(uvicorn_config(create_app(out), ServingLimits()))
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield url_of(sock)
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def only_tab(browser: Browser) -> Tab:  # noqa: F811
    return browser.tab()


@pytest.fixture
def tab(only_tab: Tab, url: str, tmp_path: Path) -> Iterator[Tab]:
    """The page, opened. Afterwards: no script failed, nothing was blocked, no other origin was asked."""
    only_tab.reset(tmp_path)
    only_tab.open(f"{url}/")
    only_tab.until(f"!document.querySelector('#item').hidden && {SHOWN}")
    yield only_tab
    failures = [row["exceptionDetails"]["text"] for row in only_tab.seen("Runtime.exceptionThrown")]
    blocked = [row["entry"]["text"] for row in only_tab.seen("Log.entryAdded") if row["entry"]["source"] == "security"]
    urls = [row["request"]["url"] for row in only_tab.seen("Network.requestWillBeSent")]
    assert failures == [] and blocked == [] and [one for one in urls if not one.startswith(url)] == []
