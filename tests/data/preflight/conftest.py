"""A folder of clips that every test of a preflight may use."""

from pathlib import Path

import pytest

from tests.data.media import write_video

from .clips import black, write_frames


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """v0.mp4 and v1.mp4 of 2.0 and 2.2 s, black.mp4 of 1 s, bad.mp4 that is text."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "v0.mp4", 10)
    write_video(folder / "v1.mp4", 11)
    write_frames(folder / "black.mp4", black(10))
    (folder / "bad.mp4").write_text("no video here")
    return folder
