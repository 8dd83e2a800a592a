"""Tracks of masks: what they hold, how they are written down, and what a sample that carries them refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.data.mask_rle import MaskError
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample, SampleError, read_samples, write_samples
from timeexpert.tokenization import Event, EventSequence

CORNER = np.array([[True, False], [False, False], [False, False]])
FULL = np.ones((3, 2), dtype=bool)
TRACK = MaskTrack.from_masks([CORNER, np.zeros((3, 2)), FULL], [0, 0.5, 2], "cat")


def sample(**changes) -> Sample:
    events = EventSequence((Event(0.5, 2.0, (), "the cat"),))
    fields = dict(id="a", video="v.mp4", task="referring_segmentation", prompt="Segment the cat.", events=events)
    return Sample(**{**fields, "duration_s": 4.0, "tracks": (TRACK,), **changes})


def test_masks_come_back_and_an_empty_one_is_not_visible():
    assert TRACK.size == (3, 2) and TRACK.times_s == (0.0, 0.5, 2.0) and TRACK.rles[1] is None
    assert np.array_equal(TRACK.mask(0), CORNER) and np.array_equal(TRACK.mask(2), FULL)
    assert TRACK.mask(1).dtype == bool and not TRACK.mask(1).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20))
def test_every_track_survives_json(seed, frames, height, width):
    masks = np.random.default_rng(seed).random((frames, height, width)) < 0.3
    track = MaskTrack.from_json(MaskTrack.from_masks(masks, np.arange(frames) / 3, "x").to_json())
    track.check()
    assert np.array_equal([track.mask(i) for i in range(frames)], masks)


def test_the_nearest_annotated_time_stands_for_a_frame():
    # 0.25 lies in the middle of 0 and 0.5: the earlier one; what is past the end takes the last one.
    assert TRACK.nearest([0.0, 0.25, 0.3, 1.2, 1.3, 9.0]) == (0, 0, 1, 1, 2, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": [3]}, r"size \(\[3\]\) must be \[height, width\]"),
        ({"size": [3, 2.0]}, r"size .* must be \[height, width\]"),
        ({"size": 6}, r"size \(6\) must be a list"),
        ({"times_s": [0, 0.5]}, "times_s has 2 times and rles 3 masks.*Write null"),
        ({"times_s": [0, 2, 2]}, r"times_s\[2\] \(2.0\) must be after times_s\[1\] \(2.0\)"),
        ({"times_s": [0, 1, float("nan")]}, r"times_s\[2\] \(nan\) must be a number of seconds"),
        ({"times_s": [-1, 1, 2]}, r"times_s\[0\] \(-1\) must be a number of seconds"),
        (
            {"rles": [None, {"counts": "6"}, None]},
            r"rles\[1\] .* must be the text of COCO's compressed counts, or null",
        ),
        ({"object_id": 3}, r"object_id \(3\) must be a string"),
        ({"mask": []}, "unknown field 'mask'"),
    ],
)
def test_what_is_no_track_is_refused(changes, words):
    with pytest.raises(MaskError, match=words):
        MaskTrack.from_json(TRACK.to_json() | changes)


def test_a_track_without_masks_or_fields_is_refused():
    with pytest.raises(MaskError, match="one at least"):
        MaskTrack((3, 2), (), ())
    with pytest.raises(MaskError, match="field 'rles' is missing"):
        MaskTrack.from_json({"size": [3, 2], "times_s": [0]})
    with pytest.raises(MaskError, match="a track must be an object with .* not 7"):
        MaskTrack.from_json(7)
    with pytest.raises(MaskError, match=r"shapes \[\(3, 2\), \(2, 2\)\]; they must all have one shape"):
        MaskTrack.from_masks([FULL, np.ones((2, 2))], [0, 1])


@pytest.mark.parametrize(("counts", "words"), [("P", "out of range or break off"), ("5", "give 5 pixels")])
def test_a_text_that_does_not_decode_names_its_time(counts, words):
    track = replace(TRACK, rles=(None, counts, None))
    for read in (track.check, lambda: track.mask(1)):
        with pytest.raises(MaskError, match=rf"rles\[1\] \(at 0.5 s\): .*{words}"):
            read()


def test_a_sample_carries_its_tracks_through_a_file(tmp_path):
    path = tmp_path / "samples.jsonl"
    write_samples(path, [sample(), sample(id="b", tracks=())])
    assert [s for _, s in read_samples(path)] == [sample(), sample(id="b", tracks=())]
    assert "tracks" in sample().to_json() and "tracks" not in sample(tracks=()).to_json()


def test_a_sample_refuses_tracks_that_do_not_fit_its_video():
    other = MaskTrack.from_masks([np.ones((2, 2))], [0])
    with pytest.raises(SampleError, match=r"tracks\[1\].size \(\[2, 2\]\) is not that of tracks\[0\] \(\[3, 2\]\)"):
        sample(tracks=(TRACK, other))
    with pytest.raises(SampleError, match=r"tracks\[0\].times_s\[2\] \(2.0\) is past duration_s \(1.2\)"):
        sample(duration_s=1.2, events=EventSequence((Event(None, None, (), "the cat"),)))
    with pytest.raises(SampleError, match=r"tracks\[1\]: field 'size' is missing"):
        Sample.from_json(sample().to_json() | {"tracks": [TRACK.to_json(), {}]})
    with pytest.raises(SampleError, match=r"tracks \({}\) must be a list"):
        Sample.from_json(sample().to_json() | {"tracks": {}})
