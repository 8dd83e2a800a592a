from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.media import write_video
from timeexpert.data.frames import FrameReader
from timeexpert.data.video import VideoError

ONE_CLIP = 10 * (16 * 16 * 3 + 8)  # bytes of ten frames with their times


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames, one every 0.2 s: two seconds."""
    return write_video(tmp_path_factory.mktemp("frames") / "clip.mp4", 10, 5)


@pytest.mark.parametrize("mode", ["uniform", "random"])
@pytest.mark.parametrize("num_frames", [1, 3, 10, 25])
def test_the_cache_changes_no_bit(mode: str, num_frames: int, clip: Path) -> None:
    cached, plain = FrameReader(16, ONE_CLIP), FrameReader(16)
    for _ in range(2):  # the second read of the cached clip is from memory
        rng = [np.random.default_rng(num_frames) for _ in range(2)]
        a = cached.read("clip", lambda: (clip, "clip.mp4"), num_frames, mode, rng[0])  # type: ignore[arg-type]
        b = plain.read("clip", lambda: (clip, "clip.mp4"), num_frames, mode, rng[1])  # type: ignore[arg-type]
        assert np.array_equal(a[0], b[0]) and a[0].dtype == np.uint8
        assert np.array_equal(a[1], b[1])
        assert a[2] == b[2] == pytest.approx(2.0)
    assert (cached.used_bytes, plain.used_bytes) == (ONE_CLIP, 0)


def test_frames_are_those_on_screen_at_the_centres_of_equal_parts(clip: Path) -> None:
    frames, times_s, _ = FrameReader(16).read("clip", lambda: (clip, "clip"), 4)
    assert frames.shape == (4, 16, 16, 3)
    assert times_s == pytest.approx([0.2, 0.6, 1.2, 1.6])  # on screen at 0.25, 0.75, 1.25 and 1.75 s


def test_a_short_clip_gives_each_frame_once(clip: Path) -> None:
    frames, times_s, _ = FrameReader(16, ONE_CLIP).read("clip", lambda: (clip, "clip"), 64)
    assert len(frames) == len(times_s) == 10


def test_a_cached_clip_is_not_opened_again_and_a_full_cache_keeps_what_it_has(clip: Path) -> None:
    reader, opened = FrameReader(16, ONE_CLIP + 1), []

    def source(name: str) -> tuple[Path, str]:
        opened.append(name)
        return clip, name

    for name in ("a", "b", "a", "b"):
        reader.read(name, lambda name=name: source(name), 2)  # type: ignore[misc]
    assert opened == ["a", "b", "b"]  # there is room for one clip; it stays
    assert reader.used_bytes == ONE_CLIP


def test_what_was_returned_may_be_written_into_without_changing_the_cache(clip: Path) -> None:
    reader = FrameReader(16, ONE_CLIP)
    first, _, _ = reader.read("clip", lambda: (clip, "clip"), 3)
    kept = first.copy()
    first[:] = 0
    again, _, _ = reader.read("clip", lambda: (clip, "clip"), 3)
    assert np.array_equal(again, kept)


def test_bytes_are_read_as_the_file_is(clip: Path) -> None:
    a = FrameReader(16).read("a", lambda: (clip, "clip"), 3)
    b = FrameReader(16).read("b", lambda: (clip.read_bytes(), "clip"), 3)
    assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])


def test_a_clip_that_cannot_be_read_is_named_and_takes_no_room() -> None:
    reader = FrameReader(16, ONE_CLIP)
    with pytest.raises(VideoError, match=r"holiday\.mp4: the file is empty \(0 bytes\)"):
        reader.read("x", lambda: (b"", "holiday.mp4"), 2)
    assert reader.used_bytes == 0
