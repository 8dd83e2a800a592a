"""Masks drawn into a video: right pixels, right frames, bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.media import write_video
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.video import Video
from timeexpert.reports import mask_video
from timeexpert.reports.errors import ReportError
from timeexpert.reports.mask_video import COLOURS, draw_strip, seen_spans, write_mask_video
from timeexpert.reports.timeline import PREDICTED
from timeexpert.tokenization import Event, EventSequence

EVENTS = EventSequence((Event(1.0, 2.0, text="it moves"),))


def half(left: bool) -> np.ndarray:
    mask = np.zeros((12, 16), dtype=bool)
    mask[:, :8] = left
    mask[:, 8:] = not left
    return mask


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def test_each_object_is_drawn_where_and_when_it_is(tmp_path: Path) -> None:
    source = write_video(tmp_path / "v.mp4", num_frames=15, fps=5)  # 3 s of 64x48 noise
    first = MaskTrack.from_masks([half(True), half(True), np.zeros((12, 16))], [0.5, 1.5, 2.5], "left")
    second = MaskTrack.from_masks([np.zeros((12, 16)), half(False), half(False)], [0.5, 1.5, 2.5], "right")
    frames, width, height = write_mask_video(source, (first, second), EVENTS, 3.0, tmp_path / "m.mp4")
    assert (frames, width) == (15, 320) and height > 240 and height % 2 == 0
    with Video.open(tmp_path / "m.mp4") as drawn:
        assert (drawn.info.width, drawn.info.height, drawn.info.num_frames) == (width, height, frames)
        pictures, times_s = drawn.all_frames()
    assert np.allclose(times_s, np.arange(15) / 5, atol=1e-3)

    def tint(t: int, colour: int, left: bool) -> float:
        """How far the half's mean colour lies from the colour: 0 where the mask is opaque."""
        part = pictures[t, 20:220, 10:150] if left else pictures[t, 20:220, 170:310]
        return float(np.abs(part.reshape(-1, 3).mean(0) - rgb(COLOURS[colour])).max())

    with Video.open(source) as video:
        plain = video.frames_at([0.4, 1.4, 2.4], (240, 320))[0]
    for t, left_shown, right_shown in ((2, True, False), (7, True, True), (12, False, True)):
        bare = plain[(t - 2) // 5].astype(float)
        for shown, colour, columns in ((left_shown, 0, slice(10, 150)), (right_shown, 1, slice(170, 310))):
            before = np.abs(bare[20:220, columns].reshape(-1, 3).mean(0) - rgb(COLOURS[colour])).max()
            after = tint(t, colour, columns.start == 10)
            assert bool(after < 0.75 * before) is shown, (t, colour, before, after)


def test_the_strip_has_a_row_for_events_and_one_per_object() -> None:
    track = MaskTrack.from_masks([half(True), np.zeros((12, 16)), half(True)], [0.0, 1.0, 2.0])
    strip = draw_strip((track,), EVENTS, 4.0, 416)  # 100 pixels a second, 8 at each side
    events, object_row = strip[8], strip[8 + 18 + 12]
    blue = rgb(PREDICTED)
    assert (events[8 + 105 : 8 + 195] == blue).all() and (events[8 + 5 : 8 + 95] != blue).any()
    colour = rgb(COLOURS[0])
    on = (object_row == colour).all(-1)
    assert on[8 + 90 : 8 + 95].all() and not on[8 + 105 : 8 + 195].any() and on[8 + 205 : 8 + 295].all()
    assert not on[8 + 305 :].any()
    many = draw_strip((track,) * 12, EventSequence(), 4.0, 320)
    assert len(many) == len(draw_strip((track,) * 9, EventSequence(), 4.0, 320)) and len(many) % 2 == 0


def test_an_object_is_seen_until_the_next_time_of_its_track() -> None:
    shown = MaskTrack.from_masks([half(True), half(True), np.zeros((12, 16)), half(False)], [0.0, 1.0, 2.0, 3.0])
    assert seen_spans(shown) == [(0.0, 2.0), (3.0, 4.0)]


def test_the_written_video_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_video, "MAX_FRAMES", 4)
    monkeypatch.setattr(mask_video, "MAX_SIDE", 40)
    source = write_video(tmp_path / "v.mp4", num_frames=15, fps=5)
    track = MaskTrack.from_masks([half(True)], [1.0])
    frames, width, _ = write_mask_video(source, (track,), EVENTS, 3.0, tmp_path / "m.mp4")
    assert (frames, width) == (4, 40)


def test_what_cannot_be_drawn_leaves_no_file(tmp_path: Path) -> None:
    source = write_video(tmp_path / "v.mp4", num_frames=5, fps=5)
    broken = MaskTrack((12, 16), (0.5,), ("o",))
    with pytest.raises(ValueError, match=r"rles\[0\] \(at 0.5 s\)"):
        write_mask_video(source, (broken,), EVENTS, 1.0, tmp_path / "m.mp4")
    with pytest.raises(ReportError, match="there are no tracks to draw"):
        write_mask_video(source, (), EVENTS, 1.0, tmp_path / "m.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]
