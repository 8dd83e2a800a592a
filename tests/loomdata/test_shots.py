"""Shots: who finds which cut, which boundary a short shot loses, and real clips whose cuts are known."""

import subprocess
import sys

import numpy as np
import pytest

from timeexpert.errors import UserError
from timeexpert.loomdata.config import ShotsConfig
from timeexpert.loomdata.features import colour_features
from timeexpert.loomdata.kts import segment
from timeexpert.loomdata.shots import Cut, Shot, join, look, shots_between


def spans(shots):
    return [(shot.start_s, shot.end_s) for shot in shots]


def test_a_boundary_that_both_found_is_pyscenedetects():
    assert join([3.0], [3.0005, 6.0], 10.0) == [Cut(3.0, "scene"), Cut(6.0, "kts")]
    assert join([0.0, 10.0], [], 10.0) == []


def test_a_short_shot_loses_the_boundary_that_kts_found():
    after = [Cut(4.0, "scene"), Cut(4.5, "kts")]
    assert spans(shots_between(after, 10.0, 1.0)) == [(0, 4), (4, 10)]
    before = [Cut(3.5, "kts"), Cut(4.0, "scene")]
    assert spans(shots_between(before, 10.0, 1.0)) == [(0, 4), (4, 10)]


def test_of_two_cuts_of_a_kind_the_one_towards_the_shorter_neighbour_goes():
    cuts = [Cut(2.0, "scene"), Cut(2.5, "scene")]
    assert spans(shots_between(cuts, 10.0, 1.0)) == [(0, 2.5), (2.5, 10)]
    assert spans(shots_between([Cut(7.5, "kts"), Cut(8.0, "kts")], 10.0, 1.0)) == [(0, 7.5), (7.5, 10)]


def test_short_shots_are_merged_until_none_is_left():
    cuts = [Cut(t / 10, "scene") for t in range(3, 30, 3)]
    shots = shots_between(cuts, 3.0, 1.0)
    assert all(shot.length_s >= 1.0 for shot in shots) and spans(shots)[0][0] == 0 and spans(shots)[-1][1] == 3.0
    assert spans(shots_between([Cut(0.4, "scene")], 0.8, 1.0)) == [(0.0, 0.8)]


def test_a_shot_knows_its_length_and_centre():
    assert Shot(2.0, 5.0).length_s == 3.0 and Shot(2.0, 5.0).centre_s == 3.5


def test_colours_are_of_length_one_and_tell_places_apart():
    red, split = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    split[:, :4, 0] = 255
    assert np.linalg.norm(colour_features(red)) == pytest.approx(1)
    assert colour_features(red) @ colour_features(red) == pytest.approx(1)
    # red and black agree in green and blue everywhere, and in red in one half: 1/3 + 1/3 + 1/6
    assert colour_features(red) @ colour_features(split) == pytest.approx(5 / 6)
    assert colour_features(split[:, ::-1]) @ colour_features(split) == pytest.approx(2 / 3)
    assert colour_features(np.zeros((1, 2, 3), np.uint8)).shape == (96,)


def test_settings_outside_their_bounds_are_named():
    with pytest.raises(UserError, match=r"max_shots \(0\) must be between 1 and 10000"):
        ShotsConfig(max_shots=0)
    with pytest.raises(UserError, match=r"threshold \(-1\) must be above 0, or null"):
        ShotsConfig(threshold=-1)


def test_cuts_of_a_real_clip_are_found_to_the_frame(shared):
    """asl_mix_a.mp4: eight clips joined; its cuts are known to two frames (0.07 s)."""
    pytest.importorskip("scenedetect")
    noted_s = [2.567, 4.667, 8.3, 9.867, 11.8, 13.5, 15.7]
    seen = look(shared / "videos", "asl_mix_a.mp4", ShotsConfig())
    assert (seen.num_frames, seen.size) == (544, (480, 640)) and seen.duration_s == pytest.approx(18.133, abs=0.01)
    assert len(seen.feature_times_s) == 37 and seen.feature_times_s[1] == pytest.approx(0.5, abs=0.04)
    points = segment(seen.features, max_change_points=32, penalty=0.5).change_points
    cuts = join(seen.scene_cuts_s, [float(seen.feature_times_s[i]) for i in points], seen.duration_s)
    ends = [shot.end_s for shot in shots_between(cuts, seen.duration_s, 1.0)[:-1]]
    for cut_s in seen.scene_cuts_s:
        assert min(abs(cut_s - t) for t in noted_s) <= 0.07
    assert set(seen.scene_cuts_s) <= set(ends)


def test_processes_that_decode_load_no_torch():
    code = "import sys; from timeexpert.loomdata.shots import look; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
