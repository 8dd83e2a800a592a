"""Formats of queries and windows: Charades-STA, QVHighlights, Lighthouse, MUSEG, E.T. Bench."""

from collections import Counter

import pytest

from timeexpert.data.formats import detect, read_durations
from timeexpert.data.formats.qvhighlights import CLIP_S, clip_of, clip_time


def test_a_charades_line_becomes_a_query_with_its_window(convert_rows):
    (sample,), _ = convert_rows("charades_sta", "3MSZA 24.3 30.4##person turn a light on.\n")
    assert sample.task == "moment_retrieval"
    assert sample.video == "3MSZA.mp4"
    assert sample.events.segments_s == [(24.3, 30.4)]
    assert sample.events[0].text == "person turn a light on."
    assert "person turn a light on." in sample.prompt
    assert sample.id == "charades_sta:file:1:3MSZA" and sample.source == "charades_sta"


def test_a_charades_query_may_hold_the_separator(convert_rows):
    (sample,), _ = convert_rows("charades_sta", "A 1 2##a ## b")
    assert sample.events[0].text == "a ## b"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("3MSZA 24.3##no end.", "malformed"),
        ("3MSZA 24.3 x##not a number.", "malformed"),
        ("3MSZA -1 2##negative.", "malformed"),
        ("no separator", "malformed"),
        ("3MSZA 1 2## ", "no_label"),
        ("3MSZA 3 2##backwards.", "reversed"),
    ],
)
def test_a_charades_line_of_another_shape_is_rejected(convert_rows, line, kind):
    samples, (rejected,) = convert_rows("charades_sta", f"{line}\nA 1 2##good.\n")
    assert len(samples) == 1
    assert rejected.kind == kind and rejected.where == "file.json:1"


def test_charades_windows_past_the_duration_are_rejected_or_cut_on_demand(shared, convert_file):
    folder = shared / "annotations/charades_sta"
    path, durations = folder / "charades_sta_train.txt", read_durations(folder / "charades_durations.json")
    samples, rejected = convert_file("charades_sta", path, durations=durations)
    assert len(samples) + len(rejected) == 400
    assert {r.kind for r in rejected} == {"past_duration"}
    cut, none = convert_file("charades_sta", path, durations=durations, clip_to_duration=True)
    assert len(cut) == 400 and not none
    assert all(e.end_s <= s.duration_s for s in cut for e in s.events)
    assert sum("clipped_ends_s" in s.meta for s in cut) >= len(rejected) > 0


def test_charades_cut_to_the_duration_agrees_with_lighthouse_s_own_cut(shared, convert_file):
    """Lighthouse publishes Charades-STA already cut; the first rows of both files are the same queries."""
    folder = shared / "annotations"
    durations = read_durations(folder / "charades_sta/charades_durations.json")
    ours, _ = convert_file(
        "charades_sta", folder / "charades_sta/charades_sta_test.txt", durations=durations, clip_to_duration=True
    )
    theirs, _ = convert_file("lighthouse", folder / "lighthouse/charades_test_release.jsonl")
    ours_by_query = {(s.video, s.events[0].text): s.events.segments_s[0] for s in ours}
    for sample in theirs:
        window = ours_by_query[sample.video, sample.events[0].text]
        assert window == pytest.approx(sample.events.segments_s[0], abs=0.011)


QVH = {
    "qid": 7,
    "query": "A dog runs",
    "duration": 20,
    "vid": "x_60.0_210.0",
    "relevant_windows": [[2, 4], [14, 20]],
    "relevant_clip_ids": [1, 7, 9],
    "saliency_scores": [[2, 3, 4], [4, 4, 4], [0, 0, 1]],
}


def test_a_qvhighlights_row_gives_moments_and_highlights(convert_rows):
    (moments, highlights), _ = convert_rows("qvhighlights", [QVH])
    assert moments.task == "moment_retrieval" and highlights.task == "highlight_detection"
    assert moments.video == highlights.video == "x_60.0_210.0.mp4"
    assert moments.events.segments_s == [(2.0, 4.0), (14.0, 20.0)]
    assert [e.times_s for e in highlights.events] == [(3.0,), (15.0,), (19.0,)]
    assert [e.scores for e in highlights.events] == [(3.0,), (4.0,), (pytest.approx(1 / 3),)]
    assert moments.meta == {"qid": 7, "query": "A dog runs"}
    assert highlights.meta["relevant_clip_ids"] == [1, 7, 9]
    assert highlights.meta["saliency_scores"] == [[2, 3, 4], [4, 4, 4], [0, 0, 1]]


@pytest.mark.parametrize("clip", range(75))
def test_a_clip_s_time_is_its_centre_and_maps_back_exactly(clip):
    assert clip_time(clip) == 2 * clip + 1
    assert clip_of(clip_time(clip)) == clip
    # what the clip covers, [2i, 2i + 2), maps back too, so answers a little off do no harm
    assert clip_of(2.0 * clip) == clip_of(2 * clip + 1.9) == clip
    assert CLIP_S == 2


def test_qvhighlights_highlights_map_back_to_their_clips_on_real_rows(shared, convert_file):
    path = shared / "annotations/qvhighlights/highlight_val_release.jsonl"
    samples, rejected = convert_file("qvhighlights", path)
    assert Counter(s.task for s in samples) == {"moment_retrieval": 200, "highlight_detection": 200}
    assert not rejected
    for sample in samples:
        if sample.task == "highlight_detection":
            assert [clip_of(e.start_s) for e in sample.events] == sorted(sample.meta["relevant_clip_ids"])
    assert any(len(s.events) > 1 for s in samples if s.task == "moment_retrieval")
    assert {s.duration_s for s in samples} > {150.0}


def test_qvhighlights_rows_without_labels_are_rejected_with_a_reason(shared, convert_file):
    path = shared / "annotations/qvhighlights/highlight_test_release.jsonl"
    assert detect(path) == "qvhighlights"
    samples, rejected = convert_file("qvhighlights", path)
    assert not samples and len(rejected) == 200
    assert {r.kind for r in rejected} == {"no_label"}
    assert "relevant_windows is absent or null" in rejected[0].reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"saliency_scores": [[1, 2, 3]]}, "3 relevant_clip_ids have 1 saliency_scores"),
        ({"relevant_clip_ids": [1, 2, -3]}, r"relevant_clip_ids[2] (-3) must be a whole number"),
        (
            {"relevant_clip_ids": [1, 2, 10**17]},
            "relevant_clip_ids[2] (100000000000000000) must be a finite number of at most 1000000",
        ),
        ({"relevant_clip_ids": [1, 2, 75]}, "past the video's end at 20.0 s"),
        ({"saliency_scores": [[1], [], [2]]}, "saliency_scores[1] is empty"),
        ({"saliency_scores": [[1], ["4"], [2]]}, "saliency_scores[1] ('4') must be a number"),
    ],
)
def test_bad_clip_labels_cost_the_highlights_and_not_the_moments(convert_rows, change, reason):
    (sample,), (rejected,) = convert_rows("qvhighlights", [{**QVH, **change}])
    assert sample.task == "moment_retrieval"
    assert reason in rejected.reason


def test_no_windows_and_an_empty_list_of_windows_are_rejected(convert_rows):
    rows = [{**QVH, "qid": 1, "relevant_windows": None}, {**QVH, "qid": 2, "relevant_windows": []}]
    samples, rejected = convert_rows("qvhighlights", rows, tasks=("moment_retrieval",))
    assert not samples
    assert [r.kind for r in rejected] == ["no_label", "no_label"]


@pytest.mark.parametrize(
    ("file", "samples", "rejected"),
    [
        ("charades_test_release", 200, {}),
        ("activitynet_val_release", 200, {}),
        ("tacos_test_release", 200, {}),
        ("castella_test_release", 92, {"past_duration": 8}),
        ("unav100-subset_test_release", 99, {"past_duration": 1}),
        ("tvsum_val_release", 0, {"no_label": 5}),
        ("youtube_highlight_val_release", 0, {"no_label": 60}),
    ],
)
def test_lighthouse_files_convert_whole_and_null_windows_are_named(shared, convert_file, file, samples, rejected):
    path = shared / f"annotations/lighthouse/{file}.jsonl"
    assert detect(path) == "lighthouse"
    got, bad = convert_file("lighthouse", path)
    assert len(got) == samples
    assert Counter(r.kind for r in bad) == rejected


def test_lighthouse_queries_lose_the_spaces_around_them(shared, convert_file):
    samples, _ = convert_file("lighthouse", shared / "annotations/lighthouse/activitynet_val_release.jsonl")
    assert samples[1].events[0].text.startswith("The coach helps")
    assert all(e.text == e.text.strip() for s in samples for e in s.events)


def test_museg_rows_keep_their_question_and_give_every_window(convert_rows):
    row = {
        "idx": 3,
        "problem": "Find all the sections of the video where the action 'high jump' occurs.",
        "solution": [[1, 2.5], [4, 6]],
        "video": "videos/a.mp4",
        "task": "tal",
    }
    (sample,), _ = convert_rows("museg", [row])
    assert sample.prompt == row["problem"] and sample.video == "videos/a.mp4"
    assert [(e.start_s, e.end_s, e.text) for e in sample.events] == [(1.0, 2.5, "high jump"), (4.0, 6.0, "high jump")]
    assert sample.meta == {"idx": 3, "task": "tal"}


def test_museg_windows_that_run_backwards_are_rejected(convert_rows):
    rows = [{"problem": "Find 'a'.", "solution": w, "video": "a.mp4"} for w in ([[5, 5]], [[5, 4]], [], [5, 6])]
    samples, rejected = convert_rows("museg", rows)
    assert not samples
    assert [r.kind for r in rejected] == ["zero_length", "reversed", "no_label", "malformed"]


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("stage_1.jsonl", 300),
        ("stage_2.jsonl", 300),
        ("eval_grounding_charades_sta.json", 300),
        ("eval_grounding_thumos14.json", 60),
        ("eval_grounding_thumos15.json", 60),
    ],
)
def test_museg_files_convert_whole_with_a_query_for_each_event(shared, convert_file, file, count):
    path = shared / "annotations/museg" / file
    assert detect(path) == "museg"
    samples, rejected = convert_file("museg", path)
    assert len(samples) == count and not rejected
    assert all(event.text and event.text in sample.prompt for sample in samples for event in sample.events)


def test_etbench_tasks_with_windows_convert_and_others_are_named(convert_rows):
    base = {"version": 1.0, "idx": 0, "source": "s", "video": "a.mp4", "duration": 10}
    question = "Find the event: 'a dog'. The format of your response should be: 'The event happens in <start time>'."
    rows = [
        {**base, "task": "tvg", "q": question, "tgt": [1, 2]},
        {**base, "task": "tal", "q": question, "tgt": [[1, 2], [3, 4]]},
        {**base, "task": "dvc", "q": "Describe.", "tgt": [[1, 2], [3, 4]], "g": ["one", "two"]},
        {**base, "task": "rar", "q": "Which?", "p": 0, "o": ["a", "b"]},
        {**base, "task": "dvc", "q": "Describe.", "tgt": [[1, 2]], "g": ["one", "two"]},
    ]
    samples, rejected = convert_rows("etbench", rows)
    assert [s.task for s in samples] == ["moment_retrieval", "moment_retrieval", "dense_captioning"]
    assert [e.text for s in samples for e in s.events] == ["a dog", "a dog", "a dog", "one", "two"]
    assert [r.kind for r in rejected] == ["unsupported", "malformed"]
    assert "task ('rar') is not converted; tvg, epm, tal, evs, dvc, slc are" in rejected[0].reason
    assert "1 windows have 2 captions" in rejected[1].reason
