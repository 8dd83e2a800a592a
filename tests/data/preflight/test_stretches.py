"""Black and frozen stretches and gaps, in real files of known pictures."""

from __future__ import annotations

import numpy as np
import pytest

from timeexpert.data.preflight.stretches import StretchConfig, StretchFinder
from timeexpert.data.preflight.stretches import gaps as find_gaps
from timeexpert.errors import UserError

from .clips import HEIGHT, WIDTH, black, found, judged, moving, still, write_frames


def test_a_black_stretch_is_given_in_the_clips_own_seconds(tmp_path):
    frames = [*moving(20), *black(15), *moving(20)]
    clip = judged(write_frames(tmp_path / "v.mp4", frames))
    assert clip.facts.black == ((2.0, 3.5, False),)
    assert [(f.kind, f.text) for f in clip.findings] == [("black", "2.0 to 3.5 s of 5.5 s")]


def test_a_short_black_moment_is_none_unless_asked_for(tmp_path):
    path = write_frames(tmp_path / "v.mp4", [*moving(20), *black(5), *moving(20)])
    assert found(path) == {}
    assert found(path, StretchConfig(black_s=0.5)) == {"black": "2.0 to 2.5 s of 4.5 s"}


@pytest.mark.parametrize("num_frames", [1, 3, 40])
def test_a_clip_that_is_all_black_is_all_black_however_short(tmp_path, num_frames):
    assert list(found(write_frames(tmp_path / "v.mp4", black(num_frames)))) == ["all_black"]


def test_black_with_an_odd_frame_is_all_black_and_with_a_short_event_is_not(tmp_path):
    odd, event = [*black(60), *moving(2)], [*black(400), *moving(15)]
    assert list(found(write_frames(tmp_path / "odd.mp4", odd))) == ["all_black"]
    assert found(write_frames(tmp_path / "event.mp4", event)) == {"black": "0.0 to 40.0 s of 41.5 s"}  # 96% of it


def test_a_small_bright_thing_on_black_is_not_black(tmp_path):
    frames = [frame.copy() for frame in black(30)]
    for frame in frames:
        frame[40:46, 60:66] = 255
    assert "all_black" not in found(write_frames(tmp_path / "v.mp4", frames))


def test_full_range_black_and_dark_grey_are_told_apart(tmp_path):
    grey = [np.full((HEIGHT, WIDTH, 3), 40, np.uint8)] * 20
    assert "all_black" not in found(write_frames(tmp_path / "v.mp4", grey))
    assert "all_black" in found(tmp_path / "v.mp4", StretchConfig(black_level=45))


def test_a_picture_that_stops_is_frozen_from_the_first_of_the_equal_frames(tmp_path):
    run = moving(30)
    clip = judged(write_frames(tmp_path / "v.mp4", [*run, *[run[-1]] * 40, *moving(20)]))
    assert clip.facts.frozen == ((2.9, 7.0, True),)
    assert [(f.kind, f.text) for f in clip.findings] == [("frozen", "2.9 to 7.0 s of 9.0 s")]
    assert found(tmp_path / "v.mp4", StretchConfig(frozen_s=5)) == {}


def test_a_frozen_picture_is_found_through_coarse_coding(tmp_path):
    options = {"crf": "32", "g": "12"}  # each key frame codes the picture anew, a little differently
    rgb = np.linspace(30, 220, WIDTH, dtype=np.uint8)[None, :, None].repeat(HEIGHT, 0).repeat(3, 2)
    path = write_frames(tmp_path / "v.mp4", [*moving(20), *[rgb] * 50, *moving(20)], **options)
    (stretch,) = judged(path).facts.frozen
    assert stretch[:2] == pytest.approx((2.0, 7.0), abs=0.25)


def test_slow_motion_is_not_frozen(tmp_path):
    """A pixel a second."""
    assert found(write_frames(tmp_path / "v.mp4", moving(80, pixels_per_frame=0.1))) == {}


def test_a_slow_fade_is_not_frozen(tmp_path):
    frames = [np.full((HEIGHT, WIDTH, 3), 40 + 2 * i, np.uint8) for i in range(80)]
    assert found(write_frames(tmp_path / "v.mp4", frames)) == {}


def test_one_picture_throughout_is_a_still_and_pictures_in_turn_are_a_slideshow(tmp_path):
    assert found(write_frames(tmp_path / "still.mp4", still(50))) == {"still": "one picture for 5.0 s of 5.0 s"}
    assert found(write_frames(tmp_path / "one.mp4", still(1))) == {"still": "a single frame"}
    slides = [frame for seed in range(4) for frame in still(40, seed)]
    assert found(write_frames(tmp_path / "slides.mp4", slides)) == {
        "slideshow": "4 pictures stand still, for 16.0 s together"
    }


def test_a_slide_show_of_one_frame_a_slide_has_neither_frozen_stretches_nor_gaps(tmp_path):
    slides = [still(1, seed)[0] for seed in range(6)]
    times_s = [0, 5, 10, 15, 20, 25]
    assert found(write_frames(tmp_path / "v.mp4", slides, times_s=times_s)) == {}


def test_a_frame_that_stays_on_screen_is_a_gap_and_not_frozen(tmp_path):
    times_s = [*np.arange(0, 2, 0.1), *np.arange(6, 8, 0.1)]
    run = moving(40)
    run[20] = run[19]  # the picture after the gap equals the one before it
    clip = judged(write_frames(tmp_path / "v.mp4", run, times_s=times_s))
    assert [tuple(np.round(gap[:2], 3)) for gap in clip.facts.gaps] == [(1.9, 6.0)]
    assert [f.kind for f in clip.findings] == ["gap", "variable_rate"]


def test_stretches_of_an_uneven_clip_are_measured_by_its_time_stamps():
    finder, (dark, light) = StretchFinder(StretchConfig(black_s=1)), np.array([0, 200], np.uint8)
    for time_s, value in ((0.0, light), (0.3, dark), (2.0, dark), (2.1, light), (1.0, dark), (2.2, dark)):
        finder.add(np.full((2, 2), value), time_s)  # the fifth is out of order
    finder.finish(4.0)
    assert finder.black == [(0.3, 2.1, False), (2.2, 4.0, False)]


def test_gaps_are_long_in_seconds_and_for_the_clip():
    config = StretchConfig(gap_s=2)
    assert find_gaps(np.array([0, 1, 2, 3, 9.0]), 10.0, config) == [(3.0, 9.0, False)]
    assert find_gaps(np.array([0, 0.1, 0.2, 1.8]), 1.9, config) == []  # 1.6 s
    assert find_gaps(np.array([0, 1, 2, 6.0]), 7.0, config) == []  # 4 times the median


@pytest.mark.parametrize(
    ("options", "words"),
    [({"frozen_s": 0}, r"frozen_s \(0\)"), ({"black_s": np.nan}, r"black_s \(nan\)"), ({"black_level": 256}, "256")],
)
def test_a_measure_that_cannot_be_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        StretchConfig(**options)
