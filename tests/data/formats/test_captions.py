"""Formats of timed captions: ActivityNet Captions, YouCook2, caption_coco, timed_clips."""

import json
from collections import Counter

import pytest

from timeexpert.data.formats import FormatError, convert, detect


def test_activitynet_gives_all_captions_of_a_video_and_each_as_a_query(convert_rows):
    content = {"v_a": {"duration": 30.5, "timestamps": [[0, 10.5], [9, 30]], "sentences": ["One.", "  Two."]}}
    (dense, first, second), _ = convert_rows("activitynet_captions", content)
    assert dense.task == "dense_captioning" and dense.video == "v_a.mp4" and dense.duration_s == 30.5
    assert dense.events.segments_s == [(0.0, 10.5), (9.0, 30.0)]  # overlapping, ints and floats mixed
    assert [e.text for e in dense.events] == ["One.", "Two."]
    assert [s.task for s in (first, second)] == ["moment_retrieval"] * 2
    assert second.events.segments_s == [(9.0, 30.0)] and "'Two.'" in second.prompt
    assert [s.id for s in (dense, first, second)] == [f"activitynet_captions:file:v_a{x}" for x in ("", ":0", ":1")]


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ({"duration": 9, "timestamps": [[0, 1]], "sentences": ["a", "b"]}, "malformed", "1 windows have 2 captions"),
        ({"duration": 9, "timestamps": [[0]], "sentences": ["a"]}, "malformed", "must be [start, end] in seconds"),
        ({"duration": 9, "timestamps": [[0, 1]], "sentences": [" "]}, "no_label", "sentences[0] caption is empty"),
        ({"duration": 0, "timestamps": [[0, 1]], "sentences": ["a"]}, "bad_number", "must be more than 0 seconds"),
        ({"timestamps": [[0, 1]], "sentences": ["a"]}, "malformed", "field 'duration' is missing"),
        ("text", "malformed", "a row must be an object"),
    ],
)
def test_a_bad_activitynet_video_is_rejected_by_its_name(convert_rows, row, kind, reason):
    samples, rejected = convert_rows("activitynet_captions", {"v_bad": row}, tasks=("dense_captioning",))
    assert not samples
    assert rejected[0].where == "file.json['v_bad']"
    assert rejected[0].kind == kind and reason in rejected[0].reason


@pytest.mark.parametrize(("file", "queries", "unsorted"), [("train", 539, 9), ("val_1", 540, 11), ("val_2", 553, 14)])
def test_activitynet_files_convert_whole(shared, convert_file, file, queries, unsorted):
    path = shared / f"annotations/activitynet_captions/{file}.json"
    assert detect(path) == "activitynet_captions"
    samples, rejected = convert_file("activitynet_captions", path)
    assert not rejected
    assert Counter(s.task for s in samples) == {"dense_captioning": 150, "moment_retrieval": queries}
    assert sum(bool(s.meta.get("sorted")) for s in samples) == unsorted
    for sample in samples:
        starts = [e.start_s for e in sample.events]
        assert starts == sorted(starts)
        assert all(e.text and e.text == e.text.strip() for e in sample.events)


def test_activitynet_given_another_shape_is_refused(tmp_path):
    path = tmp_path / "list.json"
    path.write_text("[1]")
    with pytest.raises(FormatError, match=r"list.json must be an object with one member per video, not list"):
        list(convert("activitynet_captions", path))


def test_youcook2_official_layout(convert_rows):
    steps = [{"id": 0, "segment": [2, 4], "sentence": "cut"}, {"id": 1, "segment": [3, 9], "sentence": "fry"}]
    video = {"duration": 10.5, "subset": "training", "recipe_type": "101", "annotations": steps}
    (sample,), _ = convert_rows("youcook2", {"database": {"abc": video}})
    assert sample.task == "dense_captioning" and sample.video == "abc.mp4" and sample.meta == {"subset": "training"}
    assert [(e.start_s, e.end_s, e.text) for e in sample.events] == [(2.0, 4.0, "cut"), (3.0, 9.0, "fry")]


def test_the_official_youcook2_file_converts_whole(shared, convert_file):
    path = shared / "annotations/CONVERTED_youcook2/youcookii_annotations_trainval.CONVERTED.json"
    assert detect(path) == "youcook2"
    samples, rejected = convert_file("youcook2", path)
    assert len(samples) == 60 and not rejected


def test_both_layouts_of_youcook2_say_the_same(shared, convert_file, convert_rows):
    path = shared / "annotations/youcook2/val.caption_coco_format.json"
    assert detect(path) == "caption_coco"
    coco, rejected = convert_file("youcook2", path)
    assert len(coco) == 60 and not rejected
    database = {}
    for row in json.loads(path.read_text())["annotations"]:
        steps = zip(row["segments"], row["pure_cap"].split(". "), strict=True)
        steps = [{"id": i, "segment": s, "sentence": text} for i, (s, text) in enumerate(steps)]
        database[row["image_id"].removesuffix(".mp4")] = {"duration": row["duration"], "annotations": steps}
    official, _ = convert_rows("youcook2", {"database": database})
    assert [(s.video, s.duration_s, s.events) for s in official] == [(s.video, s.duration_s, s.events) for s in coco]


def test_caption_coco_with_timestamps_is_a_query_per_annotation(shared, convert_file):
    path = shared / "annotations/charades_sta/test.caption_coco_format.json"
    samples, rejected = convert_file("caption_coco", path, source="charades_sta")
    assert len(samples) == 400 and not rejected
    assert samples[0].video == "3MSZA.mp4" and samples[0].events.segments_s == [(24.3, 30.4)]
    assert samples[0].source == "charades_sta"


def test_caption_coco_whose_sentences_do_not_match_its_segments_is_rejected(convert_rows):
    rows = [
        {"image_id": "a.mp4", "segments": [[1, 2], [3, 4]], "pure_cap": "cut. fry", "caption": "unused"},
        {"image_id": "a.mp4", "segments": [[1, 2], [3, 4]], "pure_cap": "cut for approx. one minute. fry"},
        {"image_id": "a.mp4", "caption": "neither"},
    ]
    (sample,), rejected = convert_rows("caption_coco", {"annotations": rows})
    assert [e.text for e in sample.events] == ["cut", "fry"]
    assert [r.where for r in rejected] == ["file.json.annotations[1]", "file.json.annotations[2]"]
    assert "2 windows have 3 captions" in rejected[0].reason
    assert "neither 'segments' nor 'timestamp'" in rejected[1].reason


def test_caption_coco_without_annotations_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"images": []}')
    for name in ("caption_coco", "youcook2"):
        with pytest.raises(FormatError, match=r'x.json: must be \{"annotations": \[...\]\}'):
            list(convert(name, path))


def test_timed_clips_of_real_videos(shared, convert_file):
    path = shared / "videos/annotations.jsonl"
    assert detect(path) == "timed_clips"
    samples, rejected = convert_file("timed_clips", path)
    assert Counter(s.task for s in samples) == {"dense_captioning": 10, "moment_retrieval": 71}
    assert not rejected
    assert all((shared / "videos" / s.video).is_file() for s in samples)
