from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from timeexpert.evaluation import EvaluationError
from timeexpert.evaluation.assignment import assign
from timeexpert.evaluation.mask_files import MaskFolder, PredictedMasks
from timeexpert.evaluation.video_objects import object_scores, sequence_statistics, video_object_segmentation


def labels(length: int = 6) -> np.ndarray:
    """Two objects; the first one leaves for the last two frames."""
    masks = np.zeros((length, 20, 30), dtype=np.uint8)
    masks[:-2, 2:8, 2:9] = 1
    masks[:, 10:18, 15:25] = 2
    return masks


def test_statistics_of_a_curve():
    values = np.array([1.0, 0.8, 0.6, 0.5, 0.2])
    mean, recall, decay = sequence_statistics(values)
    assert (mean, recall) == (pytest.approx(0.62), 0.6)
    assert decay == pytest.approx((1.0 + 0.8) / 2 - (0.5 + 0.2) / 2)  # quarters share their ends


def test_the_references_decay_breaks_from_256_frames_on():
    values = np.linspace(1, 0, 300)
    assert sequence_statistics(values)[2] == pytest.approx(0.75, abs=0.01)
    assert math.isnan(sequence_statistics(values, byte_edges=True)[2])
    assert sequence_statistics(values[:255], byte_edges=True) == sequence_statistics(values[:255])


def test_objects_are_compared_by_their_number():
    scores = object_scores(labels(), np.where(labels() == 2, 2, 0))
    assert scores.j.tolist() == [[0, 0, 0, 0, 1, 1], [1] * 6]
    assert scores.extra == 0


def test_proposals_are_assigned_and_the_rest_is_counted():
    told = np.select([labels() == 1, labels() == 2], [9, 4], 0)
    told[:, 0, 0] = 7
    scores = object_scores(labels(), told, task="unsupervised")
    assert (scores.j == 1).all() and (scores.f == 1).all()
    assert scores.proposals == [8, 3] and scores.extra == 1


def test_more_proposals_than_twenty_and_fewer_than_objects():
    many = np.zeros((6, 20, 30), dtype=np.int32)
    many[:, 0] = np.arange(30)
    assert object_scores(labels(), many, task="unsupervised").extra == 27
    none = object_scores(labels(), np.zeros_like(labels()), task="unsupervised")
    assert none.j.tolist() == [[0, 0, 0, 0, 1, 1], [0] * 6] and none.proposals == [0, 1]


def test_void_pixels_of_the_truth_count_nowhere():
    truth = labels()
    truth[:, :, 12:] = np.where(truth[:, :, 12:] == 0, 255, truth[:, :, 12:])
    told = labels()
    told[:, 10:, 25:] = 2
    assert object_scores(truth, told).j[1].tolist() == [1.0] * 6


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_assignment_has_the_largest_sum(rows, columns, seed):
    values = np.random.default_rng(seed).integers(0, 4, (rows, columns)) / 3
    r, c = assign(values)
    assert r == sorted(set(r)) and len(set(c)) == len(r) == min(rows, columns)
    wide = values if rows <= columns else values.T
    ways = itertools.permutations(range(wide.shape[1]), wide.shape[0])
    assert values[r, c].sum() == pytest.approx(max(sum(wide[i, w] for i, w in enumerate(way)) for way in ways))


def test_a_data_set_averages_over_objects_and_counts():
    truth = {name: labels() for name in ("good", "half", "unparsed", "missing")}
    told = {"good": labels(), "half": np.where(labels() == 2, 2, 0), "unparsed": np.zeros((2, 3))}
    scores = video_object_segmentation(truth, told)
    found = scores.figures()
    assert found["j_mean"] == pytest.approx(100 * (1 + 1 + 2 / 6 + 1) / 8)
    assert found["jf"] == pytest.approx((found["j_mean"] + found["f_mean"]) / 2)
    assert scores.per_item["jf"].tolist() == pytest.approx([100, 100 * 2 / 3, 0, 0])
    assert {k: scores.counts[k] for k in ("questions", "answered", "parsed", "missing", "objects", "frames")} == {
        "questions": 4, "answered": 3, "parsed": 2, "missing": 1, "objects": 8, "frames": 48
    }  # fmt: skip


def test_davis_drops_the_ends_and_objects_that_come_later():
    truth, told = labels(), labels()
    told[[0, -1]] = 0
    truth[3:, 0, 0] = 3
    assert video_object_segmentation({"v": truth}, {"v": told}, convention="davis").figures()["jf"] == 100.0
    strict = video_object_segmentation({"v": truth}, {"v": told})
    assert strict.figures()["jf"] < 80 and strict.counts["objects"] == 3


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        (np.zeros((3, 4, 5), dtype=np.uint8), r"v: the truth has no object \(0\)"),
        (np.zeros((4, 5)), r"v: the truth \(float64 \(4, 5\)\) must be a label map"),
        (None, r"v: the truth \(NoneType\) must be"),
        (np.full((3, 4, 5), 70_000), "v: the truth has an object 70000; objects are numbered 1 to 1000"),
    ],
)
def test_truth_that_is_none_is_refused(truth, words):
    with pytest.raises(EvaluationError, match=words):
        video_object_segmentation({"v": truth}, {})
    with pytest.raises(EvaluationError, match="no convention 'coco'.*strict, davis"):
        video_object_segmentation({}, {}, convention="coco")


pixels = st.sampled_from([np.uint8, np.int64, np.float64, np.bool_, np.float16, "U3", object])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), pixels, st.sampled_from([(6, 20, 30), (2, 6, 20, 30), (6, 20), (0, 20, 30)]))
def test_no_prediction_raises_or_leaves_the_range(seed, dtype, shape):
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        told = rng.choice([0, 1, 2, 255, -3, 1e9], shape).astype(np.int64).astype(dtype)
    if np.issubdtype(told.dtype, np.floating) and told.size:
        told.flat[:: rng.integers(1, 9)] = rng.choice([np.nan, np.inf, -np.inf])
    for task in ("semi_supervised", "unsupervised"):
        scores = video_object_segmentation({"v": labels(), "w": labels()}, {"v": told, "w": None}, task=task)
        for name, value in scores.figures().items():
            assert value is not None and -100 * name.endswith("decay") <= value <= 100
        assert scores.counts["answered"] == 2


def write(folder: Path, masks: np.ndarray, mode: str = "P") -> None:
    folder.mkdir(parents=True)
    for t, mask in enumerate(masks):
        image = Image.fromarray(mask)
        if mode == "P":
            image.putpalette([v for i in range(256) for v in (i, 255 - i, 0)])
        image.save(folder / f"{t:05d}.png")


def test_folders_of_palette_images(tmp_path: Path):
    write(tmp_path / "truth" / "dog", labels())
    write(tmp_path / "told" / "dog", labels())
    (tmp_path / "told" / "dog" / "00001.png").unlink()
    truth = MaskFolder(tmp_path / "truth")
    told = PredictedMasks(tmp_path / "told", truth)
    assert np.array_equal(truth["dog"], labels())
    assert video_object_segmentation(truth, told).figures()["j_mean"] == pytest.approx(100 * 10 / 12)
    assert told.missing_frames == 1
    (tmp_path / "told" / "dog" / "00002.png").write_bytes(b"no image")
    assert video_object_segmentation(truth, told).counts["parsed"] == 0
    (tmp_path / "truth" / "dog" / "00003.png").write_bytes(b"no image")
    with pytest.raises(EvaluationError, match=r"00003.png: cannot be read as an image"):
        truth["dog"]
    with pytest.raises(EvaluationError, match="no folder with .png files"):
        MaskFolder(tmp_path / "nowhere")


def test_a_grey_image_of_0_and_255_is_a_mask(tmp_path: Path):
    write(tmp_path / "dog", (labels() == 1).astype(np.uint8) * 255, "L")
    assert np.array_equal(MaskFolder(tmp_path)["dog"], (labels() == 1).astype(np.uint8))
