"""The checks that all converters share: times, durations, paths, order, ids."""

import json
import re

import pytest

from timeexpert.data.formats import ConvertOptions, FormatError, convert, read_durations
from timeexpert.data.formats.base import quoted


def clip(*windows, duration=10, video="a.mp4"):
    """A timed_clips row with one event per window."""
    return {
        "video": video,
        "duration": duration,
        "events": [{"start": s, "end": e, "caption": f"event {i}"} for i, (s, e) in enumerate(windows)],
    }


DENSE = {"tasks": ("dense_captioning",)}


def test_times_are_kept_exactly(convert_rows):
    (sample,), _ = convert_rows("timed_clips", [clip((0.123456789, 7), (2, 9.87654321))], **DENSE)
    assert sample.events.segments_s == [(0.123456789, 7.0), (2.0, 9.87654321)]


@pytest.mark.parametrize(
    ("window", "kind", "reason"),
    [
        ((5, 3), "reversed", r"events\[0\] starts at 5.0 s, after its end at 3.0 s"),
        ((3, 3), "zero_length", r"events\[0\] has no length: it starts and ends at 3.0 s"),
        ((-1, 3), "bad_number", r"events\[0\] starts before the video, at -1.0 s"),
        ((8, 10.6), "past_duration", r"ends at 10.6 s, past the video's end at 10.0 s by more than 0.5 s.*--clip-to"),
        ((11, 12), "past_duration", r"starts at 11.0 s, past the video's end at 10.0 s"),
        (("1", 3), "bad_number", r"events\[0\] time \('1'\) must be a number"),
        ((True, 3), "bad_number", r"events\[0\] time \(True\) must be a number"),
        ((None, 3), "bad_number", r"events\[0\] time \(None\) must be a number"),
        ((0, 5000000), "bad_number", r"time \(5000000\) must be a finite number of at most 1000000"),
    ],
)
def test_a_window_that_cannot_be_is_rejected_with_its_reason(convert_rows, window, kind, reason):
    samples, (rejected,) = convert_rows("timed_clips", [clip(window)], **DENSE)
    assert not samples
    assert rejected.kind == kind and rejected.where == "file.json:1"
    assert rejected.row["events"][0]["start"] == window[0]
    assert re.search(reason, rejected.reason)


def test_an_end_rounded_up_past_the_last_frame_is_kept_as_it_is(convert_rows):
    (sample,), _ = convert_rows("timed_clips", [clip((8, 10.5))], **DENSE)
    assert sample.events.segments_s == [(8.0, 10.5)]
    assert sample.meta == {}


def test_clipping_cuts_ends_and_remembers_what_they_were(convert_rows):
    (sample,), rejected = convert_rows(
        "timed_clips", [clip((1, 2), (3, 10.2), (8, 14)), clip((11, 14))], clip_to_duration=True, **DENSE
    )
    assert sample.events.segments_s == [(1.0, 2.0), (3.0, 10.0), (8.0, 10.0)]
    assert sample.meta == {"clipped_ends_s": [10.2, 14.0]}
    assert [r.kind for r in rejected] == ["past_duration"]  # nothing of it lies inside the video


def test_without_a_duration_no_end_is_too_late(convert_rows):
    (sample,), _ = convert_rows("timed_clips", [clip((8, 999), duration=None)], **DENSE)
    assert sample.duration_s is None


def test_one_bad_event_costs_the_whole_caption_sample_but_only_its_own_query(convert_rows):
    samples, rejected = convert_rows("timed_clips", [clip((1, 2), (5, 4), (6, 7))])
    assert [s.task for s in samples] == ["moment_retrieval", "moment_retrieval"]
    assert [r.where for r in rejected] == ["file.json:1", "file.json:1.events[1]"]


def test_events_are_put_in_the_order_of_time_and_the_sample_says_so(convert_rows):
    (sample, same), _ = convert_rows("timed_clips", [clip((6, 7), (1, 9), (1, 2)), clip((1, 2), (1, 3))], **DENSE)
    assert [event.text for event in sample.events] == ["event 2", "event 1", "event 0"]
    assert sample.meta == {"sorted": True}
    assert same.meta == {}


def test_a_bad_row_does_not_stop_the_rest(convert_rows):
    text = "\n".join(["{", json.dumps(clip((1, 2))), "[1]", '{"video": NaN}', "{}", "", json.dumps(clip((1, 2)))])
    samples, rejected = convert_rows("timed_clips", text, **DENSE)
    assert [s.id for s in samples] == ["timed_clips:file:2", "timed_clips:file:7"]
    assert [r.where for r in rejected] == ["file.json:1", "file.json:3", "file.json:4", "file.json:5"]
    assert [r.reason[:9] for r in rejected] == ["not JSON:", "a row mus", "NaN is no", "field 'vi"]


def test_a_line_that_is_not_utf8_or_too_long_is_rejected(tmp_path, convert_file, monkeypatch):
    monkeypatch.setattr("timeexpert.data.formats.reading.MAX_LINE_BYTES", 400)
    path = tmp_path / "f.jsonl"
    good = json.dumps(clip((1, 2))).encode()
    path.write_bytes(
        b"\xef\xbb\xbf" + good + b"\n" + good.replace(b"event", b"\xff") + b"\n" + b"x" * 1000 + b"\n" + good
    )
    samples, rejected = convert_file("timed_clips", path, **DENSE)
    assert [s.id for s in samples] == ["timed_clips:f:1", "timed_clips:f:4"]
    assert [r.reason for r in rejected] == [
        "not UTF-8: invalid start byte",
        "the line is longer than 400 bytes (its start is kept here)",
    ]


def test_nan_in_a_json_list_costs_its_row_only(tmp_path, convert_file):
    path = tmp_path / "f.json"
    path.write_text(json.dumps([clip((float("nan"), 2)), clip((1, 10**400)), clip((1, 2))]))
    samples, rejected = convert_file("timed_clips", path, **DENSE)
    assert [s.id for s in samples] == ["timed_clips:f:2"]
    assert [r.where for r in rejected] == ["f.json[0]", "f.json[1]"]


def test_half_a_character_is_rejected(convert_rows):
    row = clip((1, 2))
    row["events"][0]["caption"] = "\ud800"
    samples, rejected = convert_rows("timed_clips", [row])
    assert not samples
    assert "lone surrogate" in rejected[0].reason


@pytest.mark.parametrize("video", ["../secret.mp4", "/etc/passwd", "a/../../b.mp4", "file:///etc/passwd"])
def test_a_video_path_that_leaves_its_folder_is_rejected(convert_rows, video):
    samples, (rejected,) = convert_rows("timed_clips", [clip((1, 2), video=video)], **DENSE)
    assert not samples
    assert "must be a relative path" in rejected.reason


def test_the_video_template_places_id_and_path(convert_rows):
    row = clip((1, 2), video="deep/a.b.mp4")
    (sample,), _ = convert_rows("timed_clips", [row], video_template="x/{id}.webm", **DENSE)
    assert sample.video == "x/a.b.webm"
    (sample,), _ = convert_rows("timed_clips", [row], video_template="y/{path}", **DENSE)
    assert sample.video == "y/deep/a.b.mp4"


def test_an_id_that_holds_a_placeholder_is_not_filled_in_again(convert_rows):
    (sample,), _ = convert_rows("timed_clips", [clip((1, 2), video="{path}.mp4")], video_template="{id}.mkv", **DENSE)
    assert sample.video == "{path}.mkv"


def test_a_template_without_placeholder_is_refused():
    with pytest.raises(FormatError, match=r"video template \('a.mp4'\) must hold \{id\} or \{path\}"):
        ConvertOptions(video_template="a.mp4")


def test_an_unknown_task_is_refused():
    with pytest.raises(FormatError, match=r"task \('grounding'\) must be one of general"):
        ConvertOptions(tasks=("grounding",))


def test_durations_come_as_numbers_or_in_objects(tmp_path):
    path = tmp_path / "d.json"
    path.write_text('{"a": 12, "b": {"subset": "x", "duration": 3.5}}')
    assert read_durations(path) == {"a": 12.0, "b": 3.5}
    path.write_text('{"a": "12"}')
    with pytest.raises(FormatError, match=r"d.json: 'a': duration \('12'\) must be a number"):
        read_durations(path)


def test_the_row_s_own_duration_wins_and_a_video_without_one_is_rejected(convert_rows):
    rows = [clip((1, 2)), clip((1, 2), duration=None), clip((1, 2), duration=None, video="b.mp4")]
    samples, (rejected,) = convert_rows("timed_clips", rows, durations={"a": 33.0}, **DENSE)
    assert [s.duration_s for s in samples] == [10.0, 33.0]
    assert rejected.kind == "unknown_duration" and "has no video 'b'" in rejected.reason


def test_a_repeated_id_is_rejected(convert_rows):
    sample = {"id": "a", "video": "a.mp4", "task": "general", "prompt": "?", "events": [{"text": "yes"}]}
    samples, (rejected,) = convert_rows("samples", [sample, sample])
    assert len(samples) == 1
    assert rejected.kind == "duplicate_id" and rejected.where == "file.json:2"


def test_a_file_that_is_not_json_is_refused_with_its_line(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"v_a": {"duration": 3,\n "timestamps": [[1, 2]')
    with pytest.raises(FormatError, match=r"broken.json:2: not JSON: .*Is the file complete"):
        list(convert("activitynet_captions", path))


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        ("7" * 5000, r"past.json:3: not JSON that can be read: an integer of more than 4300 digits. Correct it."),
        ("\n" + "[" * 5000 + "]" * 5000, r"past.json:4: not JSON that can be read: nested too deeply. Correct it."),
    ],
)
def test_what_python_cannot_read_of_json_is_refused_with_its_line(tmp_path, duration, words):
    path = tmp_path / "past.json"
    path.write_text('{"v_a": {"sentences": ["[{ \\" ]"], "timestamps": [[1, 2]],\n\n"duration": ' + duration + "}}")
    with pytest.raises(FormatError, match=words):
        list(convert("activitynet_captions", path))


def test_a_missing_file_and_one_that_is_too_large_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FormatError, match=r"none.json: no such file"):
        list(convert("llava", tmp_path / "none.json"))
    monkeypatch.setattr("timeexpert.data.formats.reading.MAX_JSON_BYTES", 3)
    (tmp_path / "big.json").write_text("[1, 2]")
    with pytest.raises(FormatError, match=r"big.json: 6 bytes is more .* one record per line"):
        list(convert("caption_coco", tmp_path / "big.json"))


@pytest.mark.parametrize(
    ("prompt", "query"),
    [
        ("Find 'a dog runs' in the video's first half.", "a dog runs"),
        ("Like: 'The event happens in'. Now: 'a person's book'", "a person's book"),
        ("Find 'his kids' toys' please", "his kids' toys"),
        ("Don't find anything", ""),
    ],
)
def test_the_query_is_what_stands_last_between_quotes(prompt, query):
    assert quoted(prompt) == query
