"""Which shots show the person, how tracks are filled and cut, and which shots stand beside each other."""

import numpy as np
import pytest

from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.loomdata.actions import Stretch
from timeexpert.loomdata.shots import Shot
from timeexpert.loomdata.tracklets import (
    filled,
    grid_times_s,
    inside,
    is_visible,
    nearest,
    stretches,
    visible_share,
    without,
)

SHOTS = [Shot(0.0, 2.0), Shot(2.0, 3.0), Shot(3.0, 6.0)]
SQUARE = np.eye(4, dtype=bool)


def track(*visible):
    """A mask or none at 0, 0.5, 1.0 ... seconds."""
    masks = [SQUARE if seen else np.zeros((4, 4), bool) for seen in visible]
    return MaskTrack.from_masks(masks, [i / 2 for i in range(len(masks))])


def seen(one):
    return [rle is not None for rle in one.rles]


def test_the_grid_holds_the_frames_on_screen_each_once():
    assert grid_times_s(np.arange(10) / 10, 1.0, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert grid_times_s(np.array([0.0, 0.7, 0.8]), 1.0, 5) == [0.0, 0.8]  # a slow video
    assert grid_times_s(np.array([0.0]), 0.04, 6) == [0.0]


def test_a_shot_without_a_tracked_frame_takes_the_one_on_screen():
    times = [0.0, 0.5, 1.0, 1.5]
    assert inside(times, Shot(0.5, 1.5)) == [1, 2] and inside(times, Shot(1.1, 1.4)) == [2]
    assert nearest(times, [1, 2], 0.8) == 2 and nearest(times, [1, 2], 0.75) == 1


def test_a_tracklet_is_a_share_of_a_shots_frames():
    one = track(1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1)
    assert [visible_share(one, shot) for shot in SHOTS] == [0.5, 0.0, 1.0]


def test_masks_are_filled_and_taken_away_shot_by_shot():
    one = track(1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1)
    part = MaskTrack.from_masks([SQUARE, SQUARE], [2.0, 2.5])
    assert seen(filled(one, part)) == [1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert seen(without(one, SHOTS, [0])) == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]


def test_who_is_visible_has_a_mask_before_the_end_and_rounding_is_stood():
    one = track(0, 1, 0, 0, 0, 0, 1)
    assert is_visible(one, 0.5, 1.0) and is_visible(one, 0.5004, 1.0) and is_visible(one, 0.0, 1.5)
    assert not is_visible(one, 0.0, 0.5) and not is_visible(one, 0.0, 0.5004)
    assert not is_visible(one, 1.0, 3.0) and not is_visible(one, 0.1, 0.2)


def test_adjacent_shots_with_tracklets_become_one_stretch():
    assert stretches(SHOTS, [0, 1]) == [Stretch(0.0, 3.0, (0, 1))]
    assert stretches(SHOTS, [0, 2]) == [Stretch(0.0, 2.0, (0,)), Stretch(3.0, 6.0, (2,))]
    assert stretches(SHOTS, []) == []
