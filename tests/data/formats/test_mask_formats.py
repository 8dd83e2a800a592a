"""Formats with masks, in small files of their published shapes."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from timeexpert.data.formats import ConvertOptions, FormatError, convert, detect, get
from timeexpert.data.formats.base import RowError
from timeexpert.data.instructions import default_instructions
from timeexpert.data.mask_rle import encode_rle
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample

LEFT = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=bool)
RIGHT = LEFT[:, ::-1]
FRAMES = ["00000", "00005", "00010"]


def dump(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def meta(*expressions: dict[str, Any], frames: list[str] = FRAMES) -> dict[str, Any]:
    numbered = {str(i): expression for i, expression in enumerate(expressions)}
    return {"videos": {"v1": {"expressions": numbered, "frames": frames}}}


def label_maps(folder: Path, *maps: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in zip(FRAMES, maps, strict=True):
        image = Image.fromarray(labels.astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 250, 0, 0, 0, 250, 0])
        image.save(folder / f"{name}.png")
    return folder


@pytest.fixture
def ytvos(tmp_path: Path) -> Path:
    """The published layout, with one video of three frames: object 1 stands still, object 2 comes in the last one."""
    first, last = LEFT * 1, LEFT * 1 + RIGHT * 2
    label_maps(tmp_path / "train" / "Annotations" / "v1", first, first, last)
    asked = meta({"exp": "the left box", "obj_id": "1"}, {"exp": " the box that comes late", "obj_id": "2"})
    return dump(tmp_path / "meta_expressions" / "train" / "meta_expressions.json", asked)


def test_refer_youtube_vos_reads_the_object_of_an_expression_from_the_label_maps(ytvos, convert_file):
    assert detect(ytvos) == "ref_youtube_vos"
    (left, late), rejected = convert_file("ref_youtube_vos", ytvos)
    assert not rejected
    assert (left.task, left.video, left.events[0].times_s) == ("referring_segmentation", "v1.mp4", ())
    assert left.events[0].text == "the left box" and "the left box" in left.prompt
    assert left.duration_s == 0.5 and left.tracks[0].times_s == (0.0, 1 / 6, 2 / 6)
    assert np.array_equal(left.tracks[0].mask(2), LEFT) and left.tracks[0].object_id == "1"
    assert late.tracks[0].rles[:2] == (None, None) and np.array_equal(late.tracks[0].mask(2), RIGHT)


def test_the_frame_rate_is_the_formats_or_the_one_given(ytvos, convert_file):
    for name, options, seconds in (("refdavis17", {}, 3 / 24), ("ref_youtube_vos", {"frame_rate": 2.0}, 1.5)):
        (sample, _), _ = convert_file(name, ytvos, **options)
        assert sample.duration_s == seconds and sample.tracks[0].times_s[1] == seconds / 3
    with pytest.raises(FormatError, match=r"frame rate \(0\) must be more than 0"):
        ConvertOptions(frame_rate=0)


def test_label_maps_that_are_missing_or_odd_cost_their_expressions(ytvos, convert_file):
    folder = ytvos.parents[2] / "train" / "Annotations" / "v1"
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / "00005.png")
    _, rejected = convert_file("ref_youtube_vos", ytvos)
    assert {r.kind for r in rejected} == {"bad_masks"} and "00005.png: [2, 2] pixels" in rejected[0].reason
    (folder / "00005.png").unlink()
    _, rejected = convert_file("ref_youtube_vos", ytvos)
    assert "00005.png: no such file; there must be a label map for every frame" in rejected[0].reason


@pytest.mark.parametrize(
    ("expression", "kind", "words"),
    [
        ({"exp": "a box"}, "no_label", "names no object"),
        ({"exp": "a box", "obj_id": "x"}, "malformed", r"obj_id \('x'\) must be a number from 1 to 254"),
        ({"exp": "", "obj_id": "1"}, "no_label", "exp is empty"),
        ({"obj_id": "1"}, "malformed", "field 'exp' is missing"),
    ],
)
def test_a_bad_expression_costs_itself_alone(ytvos, convert_file, expression, kind, words):
    dump(ytvos, meta({"exp": "the left box", "obj_id": "1"}, expression))
    (good,), (bad,) = convert_file("ref_youtube_vos", ytvos)
    assert good.events[0].text == "the left box" and bad.kind == kind
    assert bad.where == "meta_expressions.json['videos']['v1']['expressions']['1']"
    assert re.search(words, bad.reason)


def test_a_split_without_masks_is_refused_with_the_places_that_were_looked_at(tmp_path):
    path = dump(tmp_path / "meta_expressions" / "valid" / "meta_expressions.json", meta({"exp": "a"}))
    with pytest.raises(FormatError, match=r"neither .*valid/Annotations nor .*valid/Annotations.*Put or link"):
        list(convert("ref_youtube_vos", path))
    with pytest.raises(FormatError, match=r"its masks are not in .*mask_dict.json. Put the file there"):
        list(convert("mevis", path))


@pytest.fixture
def mevis(tmp_path: Path) -> Path:
    left, right = encode_rle(LEFT), encode_rle(RIGHT)
    dump(tmp_path / "mask_dict.json", {"7": [left, None, left], "8": [right, right, None], "9": [None] * 3})
    asked = meta(
        {"exp": "both boxes", "obj_id": [0, 1], "anno_id": [7, 8]},
        {"exp": "the left one", "obj_id": [0], "anno_id": [7]},
        {"exp": "nobody", "obj_id": [], "anno_id": []},
        {"exp": "from another file", "obj_id": [0], "anno_id": [70]},
        {"exp": "never there", "obj_id": [0], "anno_id": [9]},
    )
    return dump(tmp_path / "meta_expressions.json", asked)


def test_mevis_unites_the_objects_of_an_expression(mevis, convert_file):
    assert detect(mevis) == "mevis"
    (both, left), rejected = convert_file("mevis", mevis)
    assert np.array_equal(both.tracks[0].mask(0), LEFT | RIGHT) and np.array_equal(both.tracks[0].mask(1), RIGHT)
    assert np.array_equal(left.tracks[0].mask(2), LEFT) and left.tracks[0].rles[1] is None
    assert both.tracks[0].object_id == "7+8" and both.duration_s == 0.5
    assert [r.kind for r in rejected] == ["no_target", "bad_masks", "bad_masks"]
    assert "no masks of the annotation '70'" in rejected[1].reason
    assert "one mask at least" in rejected[2].reason


def test_mevis_masks_that_do_not_fit_name_their_annotation(mevis, convert_file):
    dump(mevis.parent / "mask_dict.json", {"7": [encode_rle(LEFT)], "8": [{"size": [3, 5], "counts": "P"}] * 3})
    _, rejected = convert_file("mevis", mevis)
    assert "annotation '7' has 1 masks for 3 frames" in rejected[0].reason
    dump(mevis, meta({"exp": "the right one", "obj_id": [1], "anno_id": [8]}))
    _, (broken,) = convert_file("mevis", mevis)
    assert broken.kind == "bad_masks" and "at 0.0 s: counts ('P')" in broken.reason


def test_revos_is_told_from_mevis_by_its_own_fields(mevis, convert_file):
    asked = meta({"exp": "what keeps still?", "obj_id": [0], "anno_id": [7], "type_id": 1})
    path = dump(mevis.parent / "meta_expressions_train_.json", asked)
    assert detect(path) == "revos"
    (sample,), _ = convert_file("revos", path)
    assert sample.source == "revos" and np.array_equal(sample.tracks[0].mask(0), LEFT)


OUTLINE = [[0, 0, 2, 0, 2, 2, 0, 2]]  # LEFT
REFERENCE = {
    "ref_id": 3, "ann_id": 16, "image_id": 5, "category_id": 1, "split": "train", "sent_ids": [8, 9],
    "file_name": "COCO_train2014_000000000005_16.jpg",
    "sentences": [{"sent_id": 8, "sent": "left box", "raw": "Left box", "tokens": ["left", "box"]},
                  {"sent_id": 9, "sent": "the box on the left"}],
}  # fmt: skip
INSTANCES = {
    "images": [{"id": 5, "file_name": "COCO_train2014_000000000005.jpg", "height": 3, "width": 5}],
    "annotations": [
        {"id": 16, "image_id": 5, "segmentation": OUTLINE},
        {"id": 17, "image_id": 5, "segmentation": encode_rle(RIGHT)},
        {"id": 18, "image_id": 5, "segmentation": [[1, 2]]},
    ],
}


@pytest.fixture
def refcoco(tmp_path: Path) -> Path:
    dump(tmp_path / "instances.json", INSTANCES)
    return dump(tmp_path / "refs.json", [REFERENCE, {**REFERENCE, "ref_id": 4, "ann_id": 17, "split": "val"}])


def test_refcoco_gives_a_mask_per_sentence_about_a_one_frame_video(refcoco, convert_file):
    assert detect(refcoco) == "refcoco"
    (first, second, third, _), rejected = convert_file("refcoco", refcoco, source="refcoco+")
    assert not rejected and [s.id for s in (first, second)] == ["refcoco+:refs:3:8", "refcoco+:refs:3:9"]
    assert first.video == "COCO_train2014_000000000005.jpg.mp4" and first.duration_s is None
    assert first.tracks[0].times_s == (0.0,) and np.array_equal(first.tracks[0].mask(0), LEFT)
    assert second.events[0].text == "the box on the left"
    assert np.array_equal(third.tracks[0].mask(0), RIGHT)  # a run-length mask
    kept, _ = convert_file("refcoco", refcoco, split="val")
    assert {s.meta["ann_id"] for s in kept} == {17}


def test_refcoco_references_that_do_not_fit_are_rejected_with_the_file(refcoco, convert_file):
    rows = [{**REFERENCE, "ref_id": i, **one} for i, one in enumerate([{"ann_id": 18}, {"ann_id": 1}, {"image_id": 6}])]
    dump(refcoco, rows)
    samples, rejected = convert_file("refcoco", refcoco)
    assert not samples and {r.kind for r in rejected} == {"bad_masks"}
    for place, words in ((0, "polygon 0"), (2, "instances.json has no annotation 1"), (4, "has no image 6")):
        assert words in rejected[place].reason
    (refcoco.parent / "instances.json").unlink()
    with pytest.raises(FormatError, match="its outlines are not in .*instances.json"):
        convert_file("refcoco", refcoco)


def test_a_pickle_is_refused_with_a_command_that_works(refcoco, tmp_path):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([REFERENCE], protocol=2))
    with pytest.raises(FormatError, match="can run any program") as raised:
        list(convert("refcoco", path))
    command = str(raised.value).partition("into JSON: ")[2].replace("python ", f"{sys.executable} ", 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert [i.id for i in convert("refcoco", tmp_path / "refs(unc).json")] == [
        "refcoco:refs(unc):3:8", "refcoco:refs(unc):3:9",
    ]  # fmt: skip


CAPTION = "A box left of another box."
GROUNDED = {
    "file_name": "a.jpg",
    "caption": CAPTION,
    "groundings": {
        "another box": {"token_positives": [14, 25], "rle_masks": [encode_rle(RIGHT)]},
        "A box": {"token_positives": [0, 5], "rle_masks": [encode_rle(LEFT)]},
    },
}
ANSWER = "<p> A box </p> [SEG] left of <p> another box </p> [SEG]."


def same_answer(sample: Sample) -> bool:
    masks = [track.mask(0) for track in sample.tracks]
    return sample.events[0].text == ANSWER and np.array_equal(masks, [LEFT, RIGHT])


def test_grand_f_marks_the_phrases_of_a_caption_in_their_order(tmp_path, convert_file):
    path = dump(tmp_path / "GranDf_HA_GCG_train.json", [GROUNDED])
    assert detect(path) == "grand_f"
    (sample,), rejected = convert_file("grand_f", path)
    assert not rejected and same_answer(sample)
    assert (sample.task, sample.video) == ("referring_segmentation", "a.jpg.mp4")
    assert sample.prompt in default_instructions().grounded_captioning


def test_grand_f_reads_the_flickr_and_the_refcocog_files(tmp_path, convert_file):
    flickr = {
        "images": [{"id": 1, "file_name": "a.jpg", "caption": CAPTION, "height": 3, "width": 5}],
        "annotations": [
            {"image_id": 1, "tokens_positive": [[14, 25]], "sam_mask": encode_rle(RIGHT)},
            {"image_id": 1, "tokens_positive": [[0, 5]], "sam_mask": encode_rle(LEFT)},
        ],
    }
    path = dump(tmp_path / "flickr_mergedGT_GCG_train.json", flickr)
    assert detect(path) == "grand_f"
    (sample,), _ = convert_file("grand_f", path)
    assert same_answer(sample)
    refs = [
        {"sentence": "another box", "segmentation": [[3, 0, 5, 0, 5, 2, 3, 2]]},
        {"sentence": "a box", "segmentation": OUTLINE},
        {"sentence": "a cat", "segmentation": OUTLINE},
        {"sentence": "box left", "segmentation": OUTLINE},
    ]
    name = INSTANCES["images"][0]["file_name"]
    path = dump(tmp_path / "RefCOCOg_GCG_train.json", [{"img_file_name": name, "caption": CAPTION, "refs": refs}])
    assert detect(path) == "grand_f"
    _, (lacking,) = convert_file("grand_f", path)
    assert lacking.kind == "bad_masks" and "Put COCO 2014's instances.json" in lacking.reason
    dump(tmp_path / "instances.json", INSTANCES)
    (sample,), _ = convert_file("grand_f", path)
    assert same_answer(sample) and sample.meta == {"unplaced_phrases": 1, "overlapping_phrases": 1}


LOOM = {
    "video": "a.mp4",
    "duration": 9.0,
    "actions": [
        {"start": 0, "end": 4.5, "caption": "He sits down."}, {"start": 4.5, "end": 9, "caption": "He stands."},
    ],
    "masks": {"size": [3, 5], "times": [0, 0.5, 4.5], "rles": [encode_rle(LEFT)["counts"], None, None]},
}  # fmt: skip


def test_loomdata_asks_when_and_where_of_each_action(convert_rows, tmp_path):
    samples, rejected = convert_rows("loomdata", [LOOM])
    assert not rejected and detect(tmp_path / "file.json") == "loomdata"
    assert [s.task for s in samples] == ["moment_retrieval", "referring_segmentation"] * 2
    when, where = samples[:2]
    assert when.events == where.events and when.events[0].times_s == (0.0, 4.5) and not when.tracks
    assert where.tracks == (MaskTrack((3, 5), (0.0, 0.5, 4.5), tuple(LOOM["masks"]["rles"]), "1"),)
    assert "He sits down" in where.prompt and where.duration_s == 9.0
    again, _ = convert_rows("loomdata", [LOOM])
    assert again == samples


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({"size": [3, 5], "times": [0, 0], "rles": [None, None]}, "must be after times_s"),
        ({"size": [3, 5], "times": [0], "rles": ["P"]}, r"rles\[0\] \(at 0.0 s\)"),
        ({"size": [3, 5], "times": [0], "rles": [7]}, "must be the text of COCO's compressed counts"),
        ({"size": "x", "times": [0], "rles": [None]}, "size .* must be a list"),
    ],
)
def test_loomdata_with_bad_masks_keeps_the_times_and_rejects_the_masks(convert_rows, masks, words):
    samples, rejected = convert_rows("loomdata", [{**LOOM, "masks": masks}])
    assert [s.task for s in samples] == ["moment_retrieval"] * 2
    assert {r.kind for r in rejected} == {"bad_masks"}
    assert re.search(words, rejected[0].reason)


def test_segmentations_are_written_as_loomdata_and_others_are_refused(convert_rows, tmp_path):
    samples, _ = convert_rows("loomdata", [LOOM])
    rows = [get("loomdata").write(s) for s in samples if s.tracks]
    assert rows == [{**LOOM, "actions": [action]} for action in json.loads(json.dumps(LOOM["actions"]))]
    back, rejected = convert_rows("loomdata", rows)
    assert not rejected and [s.events for s in back] == [s.events for s in samples]
    with pytest.raises(RowError, match="has no masks; its segmentation is written"):
        get("loomdata").write(samples[0])
