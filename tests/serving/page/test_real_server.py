"""The page as ``timeexpert serve`` serves it, with the checkpoint that is shipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...served import served
from .browser import Tab
from .conftest import PROMPT, asked

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def address(clip: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a server with one sample."""
    (tmp_path / "samples").mkdir()
    shutil.copy(clip, tmp_path / "samples" / "a square.mp4")
    with served("--samples", str(tmp_path / "samples")) as url:
        yield f"{url}/"


def test_upload_ask_timeline_seek(address: str, only_tab: Tab, clip: Path, downloads: Path) -> None:
    tab = only_tab
    tab.reset(downloads)
    tab.open(address)
    tab.until("document.querySelector('#model').textContent === 'tiny'")
    assert tab.until("document.querySelector('#sample-list').textContent.trim()") == "a square 20.0 s"
    tab.click("#include-experts")
    asked(tab, clip, PROMPT)
    (entry,) = tab.js("JSON.parse(localStorage['timeexpert.history'])")
    timed = [row for row in entry["answer"]["events"] if row["start_s"] is not None]
    assert timed and entry["model"] == "tiny" and entry["answer"]["frame_times_s"]
    places = tab.js("[...document.querySelectorAll('#timeline .event')].map((node) => parseFloat(node.style.left))")
    duration_s = max(entry["answer"]["duration_s"], tab.js("document.querySelector('#player').duration"))
    assert sorted(places) == pytest.approx(sorted(row["start_s"] / duration_s * 100 for row in timed), abs=0.01)
    tab.click("#timeline .event")
    tab.until("!document.querySelector('#player').seeking")
    assert tab.js("document.querySelector('#player').currentTime") == pytest.approx(
        min(row["start_s"] for row in timed)
    )

    tab.call("Page.reload")  # now the player reads what the server keeps
    tab.until("document.querySelectorAll('#history-list button').length === 1")
    tab.click("#history-list button")
    tab.until("document.querySelector('#player').readyState > 0")
    tab.click("#other")
    tab.click("#sample-list button")
    tab.until("document.querySelector('#video-name').textContent === 'a square'")
    tab.until("document.querySelector('#player').readyState > 0")
    tab.click("#forget")
    tab.until("document.querySelector('#history').hidden")
    assert [row["entry"]["text"] for row in tab.seen("Log.entryAdded") if row["entry"]["level"] == "error"] == []
