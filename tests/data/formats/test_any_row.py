"""Whatever stands in a row, a converter answers with samples or rejections and never crashes."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.data.formats import FORMATS, ConvertOptions, Rejected
from timeexpert.data.formats.reading import Row
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample

TALK = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
TIMED = "<sync>" + "<time>" * 14 + "<score>cut<sync>"
GOOD = {
    "charades_sta": "A 1 2##a dog.",
    "samples": {"id": "a", "video": "a.mp4", "task": "general", "prompt": "?", "events": [{"text": "x"}], "meta": {}},
    "qvhighlights": {
        "qid": 1, "query": "a", "duration": 9, "vid": "v", "relevant_windows": [[2, 4]],
        "relevant_clip_ids": [1], "saliency_scores": [[1, 2, 3]],
    },
    "lighthouse": {"qid": 1, "query": "a", "duration": 9, "vid": "v", "relevant_windows": [[2, 4]]},
    "etbench": {"version": 1.0, "idx": 0, "task": "dvc", "video": "a.mp4", "q": "?", "tgt": [[1, 2]], "g": ["a"]},
    "museg": {"problem": "Find 'a'.", "solution": [[1, 2]], "video": "a.mp4"},
    "industry_asm": {
        "video": "a.mp4", "process": "P", "QA": [{"q": "?", "a": "1 - 2 seconds, cut.\n2 - 3 seconds, x."}],
    },
    "timeit": {"video": "a.mp4", "QA": [{"q": "?", "a": "1.0 - 2.0 seconds, cut."}]},
    "trace": {
        "video": "a.mp4", "times": [[1, 2]], "scores": [[]],
        "conversations": [TALK[0], {"from": "gpt", "value": TIMED}],
    },
    "llava": {"video": "a.mp4", "conversations": TALK},
    "timed_clips": {"video": "a.mp4", "duration": 9, "events": [{"start": 1, "end": 2, "caption": "a"}]},
    "youcook2": {"duration": 9, "annotations": [{"segment": [1, 2], "sentence": "a"}]},
    "caption_coco": {"image_id": "a.mp4", "duration": 9, "segments": [[1, 2]], "pure_cap": "a"},
    "activitynet_captions": {"duration": 9, "timestamps": [[1, 2]], "sentences": ["a"]},
    "choice_csv": {"video": "v", "question": "?", "answer": "1", "qid": "0", "a0": "a", "a1": "b"},
    "internvid": [
        {"YoutubeID": "v", "Start_timestamp": "00:00:01.5", "End_timestamp": "00:00:02.0", "Caption": "a"},
    ],
    "llava_image": {"image": "a.jpg", "conversations": TALK},
    "moment10m": {
        "qa_data": [
            {
                "variables": {"moment": [[1, 2], [3, 4]], "content": "a"}, "match_score": 1,
                "conversations": [
                    {"User": "When?", "Assistant": "In {moment}."}, {"User": "{moment}?", "Assistant": "b"},
                ],
            },
        ],
    },
    "sharegpt4video": {"video_id": "v", "video_path": "a.mp4", "captions": [{"idx": "-1", "content": "a"}]},
    "star": {
        "question_id": "q", "video_id": "v", "start": 1, "end": 2.5, "question": "?", "answer": "a",
        "choices": [{"choice_id": 0, "choice": "a"}],
    },
    "textvr": {"path": "a.mp4", "captions_info": [{"caption": "a", "caption_info": {"duration": 9, "desc_id": 1}}]},
    "videochatgpt": {"q": "?", "a": "b", "video_id": "v"},
    "ref_youtube_vos": {"expressions": {"0": {"exp": "a", "obj_id": "1"}}, "frames": ["0", "1"]},
    "refdavis17": {"expressions": {"0": {"exp": "a", "obj_id": "1"}}, "frames": ["0", "1"]},
    "mevis": {"expressions": {"0": {"exp": "a", "anno_id": [0]}}, "frames": ["0", "1"]},
    "revos": {"expressions": {"0": {"exp": "a", "anno_id": [0]}}, "frames": ["0", "1"]},
    "refcoco": {
        "ref_id": 1, "ann_id": 2, "image_id": 3, "split": "train", "file_name": "COCO_a_000000000003_2.jpg",
        "sentences": [{"sent_id": 1, "sent": "a"}],
    },
    "grand_f": {
        "file_name": "a.jpg", "caption": "a dog",
        "groundings": {"dog": {"token_positives": [2, 5], "rle_masks": [{"size": [2, 1], "counts": "11"}]}},
    },
    "loomdata": {
        "video": "a.mp4", "duration": 9, "actions": [{"start": 1, "end": 2, "caption": "a"}],
        "masks": {"size": [2, 1], "times": [0, 1.5], "rles": ["11", None]},
    },
}  # fmt: skip


class Beside:
    """What stands beside annotation files: masks of 2 x 1 pixels in two frames, outlines and sizes."""

    def masks(self, video, frames, label):
        return np.ones((len(frames), 2, 1), dtype=bool)

    def of(self, name):
        return [{"size": [2, 1], "counts": "11"}, None]

    def track(self, annotation, image):
        return MaskTrack((2, 1), (0.0,), ("11",))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
json_values = st.recursive(
    scalars | st.sampled_from([10**400, -1, "../a.mp4", "\ud800", float("nan")]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def places(value, at=()):
    """The path of every node of a JSON value."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def replaced(value, at, new):
    """``value`` with the node at path ``at`` replaced."""
    if not at:
        return new
    value = copy.deepcopy(value)
    node = value
    for key in at[:-1]:
        node = node[key]
    node[at[-1]] = new
    return value


def test_there_is_a_good_row_of_every_format():
    assert set(GOOD) == set(FORMATS)
    for name, value in GOOD.items():
        items = list(FORMATS[name].convert("f.json", rows=[Row("f.json[0]", "a", value, beside=Beside())]))
        assert items and all(isinstance(item, Sample) for item in items), items


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "charades_sta"])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_row_with_any_one_value_replaced_by_anything_never_crashes(name, data):
    at = data.draw(st.sampled_from(list(places(GOOD[name]))))
    row = Row("f.json[0]", "a", replaced(GOOD[name], at, data.draw(json_values)), beside=Beside())
    items = list(FORMATS[name].convert("f.json", rows=[row]))
    assert items
    videos = FORMATS[name].videos_of(row, ConvertOptions())
    assert {item.video for item in items if isinstance(item, Sample)} <= set(videos)
    for item in items:
        if isinstance(item, Rejected):
            assert item.reason and item.kind and item.where.startswith("f.json[0]")
            json.dumps(item.to_json())
        else:
            again = json.loads(json.dumps(item.to_json(), allow_nan=False, ensure_ascii=False).encode())
            assert Sample.from_json(again) == item


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=30))
def test_any_line_of_charades_sta_gives_one_answer(line):
    assert len(list(FORMATS["charades_sta"].convert("f.txt", rows=[Row("f.txt:1", "1", line)]))) == 1
