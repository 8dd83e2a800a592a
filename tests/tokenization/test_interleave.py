"""Prompt, frames with their times, question; times that move to frames."""

from __future__ import annotations

import numpy as np
import pytest

from timeexpert.tokenization import Event, EventCodec, EventSequence, TokenType, interleave, snap_events
from timeexpert.tokenization.interleave import InterleaveError


def test_each_frame_is_eight_visual_tokens_and_six_of_its_time(codec: EventCodec):
    before, after = codec.text.prompt("find the dog")
    vision, zero, point = codec.ids.vision, codec.ids.frame_time + 2, codec.ids.frame_time + 12
    assert interleave(codec, codec.text, "find the dog", [0.0, 1.25]) == [
        *before,
        *[vision] * 8,
        *[zero, zero, zero, zero, point, zero],  # 0000.0
        *[vision] * 8,
        *[zero, zero, zero, zero + 1, point, zero + 2],  # 0001.2
        *after,
    ]


def test_the_kind_of_every_token_follows_from_its_id(codec: EventCodec):
    ids = interleave(codec, codec.text, "x", [0.0], visual_tokens_per_frame=1)
    kinds = [codec.ids.type_of(i) for i in ids]
    assert kinds[1:8] == [TokenType.VISION] + [TokenType.FRAME_TIME] * 6
    assert set(kinds[8:]) == {TokenType.TEXT}


@pytest.mark.parametrize(
    ("frame_times_s", "visual_tokens", "words"),
    [
        ([], 8, r"frame_times_s is empty: sample at least one frame"),
        ([0.0, 2.0, 1.0], 8, r"frame_times_s\[2\] \(1\.0\) is before the frame ahead of it \(2\.0\)"),
        ([0.0, float("nan")], 8, r"frame_times_s\[1\] \(nan\)"),
        ([0.0, 10000.0], 8, r"frame_times_s\[1\]: 10000\.0 needs more than 4 digits"),
        ([0.0], 0, r"visual_tokens_per_frame \(0\) must be 1 or more"),
    ],
)
def test_frames_that_cannot_be_are_refused(codec: EventCodec, frame_times_s, visual_tokens, words: str):
    with pytest.raises(InterleaveError, match=words):
        interleave(codec, codec.text, "find", frame_times_s, visual_tokens_per_frame=visual_tokens)


FRAMES = [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("mode", "span", "snapped"),
    [
        ("none", (0.4, 2.6), (0.4, 2.6)),
        ("nearest", (0.4, 2.6), (0.0, 3.0)),
        ("nearest", (0.5, 2.5), (0.0, 2.0)),  # equally near: the earlier frame
        ("nearest", (1.2, 9.0), (1.0, 3.0)),
        ("inside", (0.4, 2.6), (1.0, 2.0)),
        ("inside", (1.0, 2.0), (1.0, 2.0)),
        ("inside", (0.9, 1.1), (1.0, 1.0)),
        ("inside", (1.1, 1.8), (1.0, 2.0)),  # no frame inside: nearest
        ("inside", (3.4, 5.0), (3.0, 3.0)),
        ("inside", (1.7, 1.7), (2.0, 2.0)),
    ],
)
def test_times_snap_to_sampled_frames(mode, span, snapped):
    (event,) = snap_events([Event(*span, (2.0,), "a")], FRAMES, mode)
    assert event == Event(*snapped, (2.0,), "a")


def test_an_event_without_time_is_left_alone():
    general = EventSequence((Event(text="yes"),))
    assert snap_events(general, FRAMES, "nearest") == general


def test_frame_times_may_be_a_float32_array():
    frames = np.arange(4, dtype=np.float32)
    assert snap_events([Event(0.4, 2.6)], frames, "inside")[0] == Event(1.0, 2.0)


def test_an_unknown_way_to_snap_is_refused():
    with pytest.raises(InterleaveError, match=r"snap mode \('outside'\) must be one of none, nearest, inside"):
        snap_events([Event(0.5, 2.0)], FRAMES, "outside")
