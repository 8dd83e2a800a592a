"""What was found out about a video as samples: tracks of the whole video, and rows about what gave none."""

import numpy as np

from timeexpert.data.instructions import default_instructions
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.loomdata.samples import samples_of
from timeexpert.loomdata.shots import Shot
from timeexpert.loomdata.store import VideoState

SHOTS = [Shot(0.0, 2.0), Shot(2.0, 6.0)]
TIMES = [i / 2 for i in range(12)]


def square(i):
    """At time i the person stands one pixel further to the right; from the tenth on it is out of sight."""
    mask = np.zeros((6, 16), bool)
    mask[1:4, i : i + 3] = i < 10
    return mask


def samples(folder, *, kept, stretches):
    """Of a video whose two shots had tracklets before verification, and ``kept`` after it."""
    state = VideoState("a.mp4", folder, "x")
    track = MaskTrack.from_masks([square(i) for i in range(12)], TIMES)
    results = {
        "shots": {"duration_s": 6.0},
        "description": {"text": "a man"},
        "fill": {"track": track.to_json(), "tracklets": [0, 1]},
        "actions": {"tracklets": kept, "stretches": stretches},
    }
    for step, result in results.items():
        state.save(step, "made from", result, seconds=0, frames=0)
    return samples_of(state, SHOTS, 2.0, verified=True, instructions=default_instructions())


def stretch(start_s, end_s, shots, **ranges):
    said = [{"first": first, "last": last, "text": text} for text, (first, last) in ranges.items()]
    return {"start_s": start_s, "end_s": end_s, "shots": shots, "ranges": said}


def test_a_track_shows_the_person_outside_the_action_too(tmp_path):
    (_, segmentation), _ = samples(tmp_path, kept=[0, 1], stretches=[stretch(0, 6, [0, 1], sits=(4, 5))])
    assert segmentation.events[0].times_s == (2.0, 3.0)
    shown = segmentation.tracks[0].at([0.1, 1.0, 2.5, 4.5, 5.9])  # frames as training samples them: over the video
    assert [shown.mask(k).tolist() for k in range(5)] == [square(i).tolist() for i in (0, 2, 5, 9, 11)]
    assert not shown.mask(4).any()


def test_masks_that_people_removed_are_null_and_an_action_without_a_mask_has_the_grounding_form_alone(tmp_path):
    found, left_out = samples(tmp_path, kept=[1], stretches=[stretch(2, 6, [1], walks=(0, 5), waves=(6, 7))])
    assert [(s.task, s.events[0].text) for s in found] == [
        ("moment_retrieval", "walks"),
        ("referring_segmentation", "walks"),
        ("moment_retrieval", "waves"),
    ]
    assert [rle is None for rle in found[1].tracks[0].rles] == [True] * 4 + [False] * 6 + [True] * 2
    assert [row["kind"] for row in left_out] == ["no mask in a range"]
    assert "no mask from 5.00 to 6.00 s" in left_out[0]["reason"]


def test_a_video_whose_masks_people_all_removed_is_named(tmp_path):
    assert samples(tmp_path, kept=[], stretches=[]) == (
        [],
        [{"step": "verify", "kind": "no tracklet left", "reason": "people removed the masks of every shot."}],
    )
