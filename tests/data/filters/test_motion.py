"""Residuals and cut strength on pictures whose motion is known."""

import numpy as np
import pytest

from timeexpert.data.filters.motion import HEIGHT, REACH, WIDTH, MotionMeter, block_residuals, cut_strength


@pytest.fixture
def scenes():
    """Two textured pictures larger than a frame."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, HEIGHT + 40, WIDTH + 40, 3), dtype=np.uint8)


def window(picture, y=10, x=10):
    return picture[y : y + HEIGHT, x : x + WIDTH]


def strengths(frames):
    meter = MotionMeter()
    for number, frame in enumerate(frames):
        meter.add(number / 10, frame)
    return cut_strength(meter.novelty)


def test_motion_within_reach_is_explained_and_a_new_scene_is_not(scenes):
    moved = block_residuals(window(scenes[0]), window(scenes[0], 10 + REACH, 10 - REACH))
    assert np.median(moved) == 0
    assert np.median(block_residuals(window(scenes[0]), window(scenes[1]))) > 50


def test_an_object_that_appears_raises_change_but_not_novelty():
    before = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    after = before.copy()
    after[6:18, 6:24] = 250  # an eighth of the picture
    meter = MotionMeter()
    for number, frame in enumerate([before] * 3 + [after] * 3):
        meter.add(float(number), frame)
    assert meter.change[2] > 50 and max(meter.change[:2]) == 0
    assert meter.novelty.max() == 0


def test_a_cut_stands_out_of_a_pan(scenes):
    frames = [window(scenes[0], 10, 5 + i) for i in range(12)] + [window(scenes[1], 10, 5 + i) for i in range(12)]
    strength = strengths(frames)
    assert strength.argmax() == 11 and strength[11] > 20
    assert np.delete(strength, 11).max() < 1


def test_a_flash_of_one_frame_is_no_cut(scenes):
    still = window(scenes[0])
    flash = np.full_like(still, 255)
    assert strengths([still] * 6 + [flash] + [still] * 6).max() < 1
    assert strengths([still] * 6 + [flash] * 6).max() > 20


def test_shaking_raises_the_neighbours_and_so_hides_no_cut_in_itself():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (30, HEIGHT, WIDTH, 3), dtype=np.uint8)
    assert strengths(frames).max() < 2


def test_a_single_frame_has_no_steps():
    assert len(strengths([np.zeros((HEIGHT, WIDTH, 3), np.uint8)])) == 0
