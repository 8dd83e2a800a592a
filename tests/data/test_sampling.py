"""Sampled times and frames; decoded clips kept in memory. Frame i of the made video is grey level 20 + 3 i."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.data.sampling import (
    SamplingError,
    frames_from_arrays,
    random_times,
    sample_frames,
    uniform_times,
)
from timeexpert.data.video import Video

from .test_video import TENTHS, UNEVEN, write_video

durations = st.floats(1e-3, 1e5)
counts = st.integers(1, 300)


@pytest.fixture(scope="module")
def tenths(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "tenths.mp4")


def test_uniform_times_are_the_centres_of_equal_intervals():
    assert uniform_times(10.0, 4).tolist() == [1.25, 3.75, 6.25, 8.75]
    assert uniform_times(10.0, 1).tolist() == [5.0]


def test_random_times_are_one_draw_per_interval_and_repeat_with_the_seed():
    times_s = random_times(10.0, 4, np.random.default_rng(7))
    assert (times_s // 2.5).tolist() == [0, 1, 2, 3]
    assert (random_times(10.0, 4, np.random.default_rng(7)) == times_s).all()
    assert (random_times(10.0, 4, np.random.default_rng(8)) != times_s).any()


@given(durations, counts, st.integers(0, 2**32))
def test_times_stay_inside_the_video_and_in_order(duration_s, num_frames, seed):
    for times_s in (
        uniform_times(duration_s, num_frames),
        random_times(duration_s, num_frames, np.random.default_rng(seed)),
    ):
        assert len(times_s) == num_frames
        assert (np.diff(times_s) >= 0).all()
        assert 0 <= times_s[0] and times_s[-1] < duration_s


@pytest.mark.parametrize(
    "duration_s, num_frames, rule",
    [
        (0.0, 4, r"duration_s \(0.0\) must be a positive"),
        (float("nan"), 4, r"duration_s \(nan\)"),
        (10.0, 0, r"num_frames \(0\) must be a whole number, 1 or more"),
        (10.0, -1, r"num_frames \(-1\)"),
    ],
)
def test_nothing_can_be_sampled_from_nothing(duration_s, num_frames, rule):
    with pytest.raises(SamplingError, match=rule):
        uniform_times(duration_s, num_frames)
    with pytest.raises(SamplingError, match=rule):
        random_times(duration_s, num_frames, np.random.default_rng(0))


def test_sampled_frames_carry_their_own_times_not_the_asked_ones(tenths):
    with Video.open(tenths) as video:
        frames, times_s = sample_frames(video, 4, size=(8, 8))  # asked: 0.75, 2.25, 3.75, 5.25
    assert times_s.tolist() == [0.7, 2.2, 3.7, 5.2]
    assert frames.shape == (4, 8, 8, 3)
    assert np.rint((frames.mean((1, 2, 3)) - 20) / 3).tolist() == [7, 22, 37, 52]


def test_as_many_frames_as_the_video_has_are_all_its_frames(tenths):
    with Video.open(tenths) as video:
        assert sample_frames(video, 60, size=(8, 8))[1].tolist() == TENTHS


def test_a_video_with_fewer_frames_gives_fewer_and_never_a_repeat(tmp_path):
    with Video.open(write_video(tmp_path / "short.mp4", TENTHS[:3])) as video:
        assert sample_frames(video, 8)[1].tolist() == [0.0, 0.1, 0.2]
    with Video.open(write_video(tmp_path / "uneven.mp4", UNEVEN)) as video:
        assert sample_frames(video, 4)[1].tolist() == [0.2, 1.8]  # asked 0.7, 2.1, 3.5, 4.9
    with Video.open(write_video(tmp_path / "one.mp4", [0.0])) as video:
        assert sample_frames(video, 16)[1].tolist() == [0.0]


def test_random_frames_repeat_with_the_seed(tenths):
    with Video.open(tenths) as video:
        first = sample_frames(video, 5, "random", np.random.default_rng(3), (8, 8))
        again = sample_frames(video, 5, "random", np.random.default_rng(3), (8, 8))
        other = sample_frames(video, 5, "random", np.random.default_rng(4), (8, 8))
    assert first[1].tolist() == again[1].tolist() != other[1].tolist()
    assert (first[1] // 1.2).tolist() == [0, 1, 2, 3, 4]


def test_random_sampling_needs_a_generator_and_a_mode_needs_to_be_known(tenths):
    with Video.open(tenths) as video:
        with pytest.raises(SamplingError, match="mode random needs rng"):
            sample_frames(video, 5, "random")
        with pytest.raises(SamplingError, match=r"mode \('unifrom'\) must be uniform or random"):
            sample_frames(video, 5, "unifrom")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 7), max_size=6))
def test_picking_from_decoded_frames_equals_decoding(tenths, asked_s):
    with Video.open(tenths) as video:
        direct, direct_s = video.frames_at(asked_s, (8, 8))
        picked, picked_s = frames_from_arrays(*video.all_frames((8, 8)), asked_s)
    assert (picked == direct).all() and picked.shape == direct.shape and picked_s.tolist() == direct_s.tolist()


def test_picking_from_a_real_clip_equals_decoding(shared):
    with Video.open(shared / "videos/chaplin.mp4") as video:
        asked_s = np.random.default_rng(0).uniform(0, video.info.duration_s, 12)
        direct, direct_s = video.frames_at(asked_s, (45, 80))
        picked, picked_s = frames_from_arrays(*video.all_frames((45, 80)), asked_s)
    assert (picked == direct).all() and (picked_s == direct_s).all()


def test_frames_and_times_must_belong_together():
    with pytest.raises(SamplingError, match="2 frames with 3 times"):
        frames_from_arrays(np.zeros((2, 1, 1, 3), np.uint8), np.arange(3.0), [0.0])
