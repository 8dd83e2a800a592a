"""One row: prompt, frames, question, answer."""

from __future__ import annotations

import numpy as np
import pytest

from timeexpert.tokenization import Event, EventCodec, EventSequence, TokenType, interleave, snap_events
from timeexpert.tokenization.interleave import InterleaveError, answer_length

DOG, MILK, DOOR = Event(0.5, 2.0, (4.5,), "the dog"), Event(2.0, 3.5, text="milk"), Event(3.5, 3.5, text="a door")


def test_each_frame_is_eight_visual_tokens_and_six_of_its_time(codec: EventCodec):
    row = interleave(codec, codec.text, "find the dog", [0.0, 1.25], [DOG])
    before, after = codec.text.prompt("find the dog")
    vision, zero, point = codec.ids.vision, codec.ids.frame_time + 2, codec.ids.frame_time + 12
    assert row.ids == [
        *before,
        *[vision] * 8,
        *[zero, zero, zero, zero, point, zero],  # 0000.0
        *[vision] * 8,
        *[zero, zero, zero, zero + 1, point, zero + 2],  # 0001.2
        *after,
        *codec.encode([DOG]),
    ]
    assert row.answer_start == len(before) + 2 * 14 + len(after)
    assert (row.num_frames, row.dropped_events) == (2, 0)


def test_the_kind_of_every_token_follows_from_its_id(codec: EventCodec):
    row = interleave(codec, codec.text, "x", [0.0], [DOG], visual_tokens_per_frame=1)
    kinds = [codec.ids.type_of(i) for i in row.ids]
    assert kinds[1:8] == [TokenType.VISION] + [TokenType.FRAME_TIME] * 6
    answer = kinds[row.answer_start :]
    assert answer[:19] == [TokenType.SYNC] + [TokenType.TIME] * 14 + [TokenType.SCORE] * 4


def test_a_row_to_generate_from_ends_where_the_answer_begins(codec: EventCodec):
    asked = interleave(codec, codec.text, "find", [0.0], None)
    taught = interleave(codec, codec.text, "find", [0.0], [DOG])
    assert asked.ids == taught.ids[: taught.answer_start]
    assert asked.answer_start == len(asked.ids)


def test_events_that_do_not_fit_are_dropped_whole_from_the_end(codec: EventCodec):
    full = interleave(codec, codec.text, "find", [0.0], [DOG, MILK, DOOR])
    for max_tokens, kept in [(len(full.ids), 3), (len(full.ids) - 1, 2)]:
        row = interleave(codec, codec.text, "find", [0.0], [DOG, MILK, DOOR], max_tokens=max_tokens)
        events, problems = codec.decode(row.ids[row.answer_start :])
        assert (list(events), problems) == ([DOG, MILK, DOOR][:kept], [])
        assert row.dropped_events == 3 - kept
        assert len(row.ids) <= max_tokens


def test_later_events_do_not_jump_the_queue(codec: EventCodec):
    first = interleave(codec, codec.text, "find", [0.0], [MILK])
    row = interleave(codec, codec.text, "find", [0.0], [MILK, DOG, DOOR], max_tokens=len(first.ids) + 12)
    assert (row.ids, row.dropped_events) == (first.ids, 2)


def test_a_row_without_room_for_one_event_is_refused(codec: EventCodec):
    row = interleave(codec, codec.text, "find", [0.0, 1.0], [DOOR])
    before, after = codec.text.prompt("find")
    answer = len(row.ids) - row.answer_start
    words = (
        rf"max_tokens \({len(row.ids) - 1}\) is too few: 2 frames take 28, the prompt {len(before) + len(after)}, "
        rf"the first event and the end {answer}; {len(row.ids)} in all\. Allow more"
    )
    with pytest.raises(InterleaveError, match=words):
        interleave(codec, codec.text, "find", [0.0, 1.0], [DOOR, DOG], max_tokens=len(row.ids) - 1)
    with pytest.raises(InterleaveError, match=r"max_tokens \(20\) is too few: 2 frames take 28"):
        interleave(codec, codec.text, "find", [0.0, 1.0], None, max_tokens=20)


@pytest.mark.parametrize(
    ("frame_times_s", "events", "visual_tokens", "words"),
    [
        ([], [DOG], 8, r"frame_times_s is empty: sample at least one frame"),
        ([0.0, 2.0, 1.0], [DOG], 8, r"frame_times_s\[2\] \(1\.0\) is before the frame ahead of it \(2\.0\)"),
        ([0.0, float("nan")], [DOG], 8, r"frame_times_s\[1\] \(nan\)"),
        ([0.0, 10000.0], [DOG], 8, r"frame_times_s\[1\]: 10000\.0 needs more than 4 digits"),
        ([0.0], [], 8, r"events is empty\. Give at least one event, or None"),
        ([0.0], [DOG, Event(0.0, 1e5)], 8, r"events\[1\]: 100000\.0 needs more than 4 digits"),
        ([0.0], [Event(0.0, 1.0, (1.0, 2.0))], 8, r"events\[0\]: scores \(\[1\.0, 2\.0\]\)"),
        ([0.0], [DOG], 0, r"visual_tokens_per_frame \(0\) must be 1 or more"),
    ],
)
def test_a_row_that_cannot_be_is_refused(codec: EventCodec, frame_times_s, events, visual_tokens, words: str):
    with pytest.raises(InterleaveError, match=words):
        interleave(codec, codec.text, "find", frame_times_s, events, visual_tokens_per_frame=visual_tokens)


def test_the_length_of_an_answer_is_known_without_its_frames(codec: EventCodec):
    row = interleave(codec, codec.text, "find", [0.0], [DOG, MILK])
    assert answer_length(codec, [DOG, MILK]) == len(row.ids) - row.answer_start


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
        snap_events([DOG], FRAMES, "outside")
