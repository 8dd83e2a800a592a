"""Frame ids and seconds: there and back."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from timeexpert.families.video_loom.answer_text import read_answer, write_answer
from timeexpert.families.video_loom.frame_ids import FrameIds
from timeexpert.tokenization import Event, EventSequence
from timeexpert.tokenization.answer_lines import AnswerError

VIDEOS = st.builds(
    FrameIds, st.integers(1, 128), st.floats(0.5, 7200.0), st.sampled_from(["frame", "start"])
)  # frames, seconds, where events end


def test_by_hand() -> None:
    ids = FrameIds(10, 30.0)  # a frame every 3 s
    assert (ids.start_s(2), ids.end_s(4), ids.moment_s(2)) == (6.0, 15.0, 7.5)
    assert (ids.first(6.4), ids.last(6.4, 14.6)) == (2, 4)
    assert (ids.first(7.6), ids.last(7.6, 16.4)) == (3, 4)  # nearest borders, not all frames that are touched
    assert ids.last(6.4, 6.9) == 2  # an event shorter than a frame has one
    assert (ids.at(8.9), ids.at(30.0)) == (2, 9)
    assert FrameIds(10, 30.0, "start").end_s(4) == 12.0
    assert FrameIds(10, 30.0, "start").last(6.4, 14.6) == 5


@given(VIDEOS, st.data())
def test_ids_survive_the_way_over_seconds(ids: FrameIds, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, ids.num_frames - 1))
    last = data.draw(st.integers(first, ids.num_frames - 1))
    start_s, end_s = ids.start_s(first), ids.end_s(last)
    assert (ids.first(start_s), ids.last(start_s, end_s)) == (first, last)
    assert ids.at(ids.moment_s(last)) == last


@given(VIDEOS, st.floats(0, 1), st.floats(0, 1))
def test_seconds_move_by_half_a_frame_at_most(ids: FrameIds, a: float, b: float) -> None:
    frame_s = ids.duration_s / ids.num_frames
    start_s, end_s = sorted((a * ids.duration_s, b * ids.duration_s))
    assume(end_s - start_s >= frame_s)
    first, last = ids.first(start_s), ids.last(start_s, end_s)
    assert 0 <= first <= last < ids.num_frames
    assert abs(ids.start_s(first) - start_s) <= frame_s / 2 * (1 + 1e-6)
    late = ids.end_of == "start" and end_s > ids.duration_s - frame_s  # past every end that can be said
    assert abs(ids.end_s(last) - end_s) <= (frame_s if late else frame_s / 2) * (1 + 1e-6)


def test_an_end_at_the_videos_end_moves_by_a_whole_interval_where_events_end_with_the_start_of_a_frame() -> None:
    for end_of, end_s in (("frame", 30.0), ("start", 27.0)):
        ids = FrameIds(10, 30.0, end_of)  # type: ignore[arg-type]
        assert ids.end_s(ids.last(6.0, 30.0)) == end_s


@given(VIDEOS, st.data())
def test_answers_are_read_as_they_were_written(ids: FrameIds, data: st.DataObject) -> None:
    assume(ids.num_frames > 1)
    frames = data.draw(st.lists(st.integers(0, ids.num_frames - 1), min_size=2, max_size=6, unique=True).map(sorted))
    spans = list(zip(frames[::2], frames[1::2], strict=False))
    said = [Event(ids.start_s(a), ids.end_s(b), text=f"a dog, number {i}") for i, (a, b) in enumerate(spans)]
    for task in ("moment_retrieval", "dense_captioning"):
        events, problems = read_answer(write_answer(task, said, ids), task, ids)
        wanted = [e.text if task == "dense_captioning" else "" for e in said]
        assert problems == [] and events.segments_s == EventSequence(tuple(said)).segments_s
        assert [event.text for event in events] == wanted
    points = [Event(ids.moment_s(f), ids.moment_s(f), (i / 2,)) for i, f in enumerate(frames)]
    events, problems = read_answer(write_answer("highlight_detection", points, ids), None, ids)
    assert (list(events), problems) == (points, [])


IDS = FrameIds(10, 30.0)


@pytest.mark.parametrize(
    ("task", "events", "objects", "text"),
    [
        ("moment_retrieval", [Event(9, 24)], 0, "The given query happens from 3 to 7."),
        ("moment_retrieval", [Event(0, 3), Event(9, 12)], 0, "The given query happens from 0 to 0 and from 3 to 3."),
        ("dense_captioning", [Event(0, 9, text="a dog  runs.")], 0, "From 0 to 2, a dog runs."),
        (
            "highlight_detection",
            [Event(9, 9, (2.0,)), Event(10, 10, (3.0,)), Event(21, 21, (1.5,))],
            0,
            "There are 2 highlight moments in 3, 7. Their saliency scores are 3.0, 1.5.",
        ),
        ("referring_segmentation", [Event(text="the dog")], 1, "It is [SEG]."),
        ("referring_segmentation", [Event(text="dogs")], 2, "They are [SEG], [SEG]."),
        ("referring_segmentation", [Event(text="A dog [SEG] and a cat [SEG].")], 2, "A dog [SEG] and a cat [SEG]."),
        ("general", [Event(text="a  dog")], 0, "a dog"),
    ],
)
def test_the_papers_forms(task: str, events: list[Event], objects: int, text: str) -> None:
    assert write_answer(task, events, IDS, objects) == text


@pytest.mark.parametrize(
    ("task", "event", "objects", "words"),
    [
        ("referring_segmentation", Event(text="the dog"), 0, "the sample has no tracks"),
        ("referring_segmentation", Event(text="[SEG]"), 2, r"1 \[SEG\] for 2 tracks"),
        ("moment_retrieval", Event(text="x"), 0, r"events\[0\] \('x'\) has no time"),
        ("dense_captioning", Event(1, 2), 0, r"events\[0\] \(1.0 to 2.0 s\) has no text"),
        ("highlight_detection", Event(1, 1), 0, "needs a time and a score"),
        ("juggling", Event(1, 1), 0, "'juggling' has no answer in words with frame ids; there are general, "),
    ],
)
def test_what_has_no_form_is_refused(task: str, event: Event, objects: int, words: str) -> None:
    with pytest.raises(AnswerError, match=words):
        write_answer(task, [event], IDS, objects)


@pytest.mark.parametrize(
    ("text", "task", "events", "problem"),
    [
        ("from 7 to 3", "moment_retrieval", 0, "from 7 to 3: frames go from 0 to 9, and no end is before"),
        ("from 8 to 10 and from 1 to 2", "moment_retrieval", 1, "from 8 to 10: frames go from 0 to 9"),
        ("from -1 to 2", "dense_captioning", 0, "from -1 to 2: frames go"),
        ("soon", "moment_retrieval", 0, "no frames were read from the text"),
        ("  ", None, 0, "the answer is empty"),
        ("It is a dog.", "referring_segmentation", 1, r"the answer names no [SEG]"),
        ("There are 2 highlight moments in 3, 10. Their saliency scores are 1.0, 2.0.", None, 1, "10: frames go from"),
        ("2 highlight moments in 3, 4. Their saliency scores are 1.0.", None, 0, "2 frames with 1 saliency scores"),
        (
            f"2 highlight moments in 3, 4. Their saliency scores are 1.0, {'9' * 320}.",
            None,
            1,
            "4: scores: inf must be",
        ),
        (f"1 highlight moments in {'9' * 5000}. Their saliency scores are 1.0.", None, 0, "frames go from 0 to 9"),
        (f"from 1 to {'9' * 5000}", "moment_retrieval", 0, "frames go from 0 to 9"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_rest_stays(
    text: str, task: str | None, events: int, problem: str
) -> None:
    found, problems = read_answer(text, task, IDS)
    assert len(found) == events and len(problems) == 1 and problem in problems[0]
