from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.evaluation import EvaluationError
from timeexpert.evaluation.bidirectional import bidirectional_foreground, foreground_scores, formula
from timeexpert.evaluation.masks import frame_scores, pair_scores
from timeexpert.evaluation.oracle import run_family


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (40, 90)) -> np.ndarray:
    mask = np.zeros((1, *size), dtype=bool)
    mask[0, top:bottom, left:right] = True
    return mask


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    edge = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            around = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if y == height - 1:
                around = around[:1]
            elif x == width - 1:
                around = around[1:2]
            edge[y, x] = any(b < width and a < height and mask[a, b] != mask[y, x] for a, b in around)
    return edge


def plain_f(truth: np.ndarray, predicted: np.ndarray, radius: float) -> float:
    """F from the definition: for each boundary pixel, is there one of the other mask near?"""
    edges = [np.argwhere(plain_boundary(mask)) for mask in (predicted, truth)]
    if not len(edges[0]) or not len(edges[1]):
        return float(len(edges[0]) == len(edges[1]))
    distance = np.sqrt(((edges[0][:, None] - edges[1][None]) ** 2).sum(axis=2))
    precision, recall = (distance <= radius).any(axis=1).mean(), (distance <= radius).any(axis=0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(7, 5), (6, 64), (9, 65), (5, 130), (1, 1), (1, 70), (30, 1)]))
def test_j_and_f_are_those_of_the_definition(seed, size):
    rng = np.random.default_rng(seed)
    truth, told = (rng.random((2, *size)) < rng.choice([0, 0.05, 0.5, 0.95, 1], (2, 1, 1)) for _ in range(2))
    j, f = frame_scores(truth, told, tolerance=2.0)
    for t in range(2):
        union = (truth[t] | told[t]).sum()
        assert j[t] == ((truth[t] & told[t]).sum() / union if union else 1.0)
        assert f[t] == pytest.approx(plain_f(truth[t], told[t], 2.0), abs=1e-12)


def test_a_boundary_three_pixels_off_counts_from_a_tolerance_of_three():
    a, b = box(10, 20, 30, 21), box(10, 23, 30, 24)
    assert frame_scores(a, b, tolerance=2.0)[1][0] < 0.7
    assert frame_scores(a, b, tolerance=3.0)[1][0] == 1.0


def test_the_tolerance_is_a_share_of_the_diagonal_rounded_up():
    a, b = box(10, 20, 30, 21, (300, 400)), box(10, 24, 30, 25, (300, 400))
    assert frame_scores(a, b)[1][0] == 1.0  # 0.008 x 500 = 4 pixels
    assert frame_scores(a, b, tolerance=0.0079)[1][0] == 1.0
    assert frame_scores(a, b, tolerance=0.006)[1][0] < 1.0


def test_void_pixels_belong_to_neither_mask():
    truth, told = box(0, 0, 10, 10), box(0, 0, 10, 20)
    assert frame_scores(truth, told)[0][0] == 0.5
    assert frame_scores(truth, told, box(0, 10, 40, 90)) == (1.0, 1.0)


def test_anything_but_zero_and_nan_is_the_object():
    mask = box(3, 3, 9, 9)
    told = np.where(mask, 0.5, 0.0)
    told[0, 0, 0] = math.nan
    assert frame_scores(mask, told) == (1.0, 1.0)
    assert frame_scores(mask, mask.astype(np.int64) * 7) == (1.0, 1.0)


def test_every_pair_is_what_it_is_alone():
    rng = np.random.default_rng(0)
    truth, told = rng.random((2, 3, 20, 70)) < 0.4, rng.random((4, 3, 20, 70)) < 0.4
    j, f = pair_scores(truth, told)
    assert j.shape == (4, 2, 3)
    for p in range(4):
        for o in range(2):
            alone = frame_scores(truth[o], told[p])
            assert np.array_equal(j[p, o], alone[0]) and np.array_equal(f[p, o], alone[1])


@pytest.mark.parametrize("shape", [(1, 40, 89), (2, 40, 90), (40, 90), (0, 40, 90)])
def test_masks_of_different_shape_are_refused(shape):
    with pytest.raises(EvaluationError, match=r"masks of shapes \(1, 40, 90\), .* must agree"):
        frame_scores(box(0, 0, 1, 1), np.zeros(shape))
    with pytest.raises(EvaluationError, match=r"tolerance \(0\) must be above 0"):
        frame_scores(box(0, 0, 1, 1), box(0, 0, 1, 1), tolerance=0)


def test_the_references_figures_are_reproduced(shared: Path):
    rows = list(run_family(shared / "oracles", "vos_jf"))
    assert len(rows) >= 120
    assert [row for row in rows if row.state != "agreed"] == []


def test_the_formula_gives_the_papers_table_12():
    assert round(float(formula(0.581, 0.605, 0.411, 0.428)), 3) == 0.491
    assert round(float(formula(0.470, 0.489, 0.254, 0.266)), 3) == 0.337
    assert formula(0.0, 0.0, 0.0, 0.0) == 0.0


def clip(first: int, last: int, length: int = 12) -> np.ndarray:
    masks = np.zeros((length, 16, 20), dtype=bool)
    masks[first : last + 1, 4:9, 5:12] = True
    return masks


def test_right_pixels_in_twice_as_many_frames():
    found = foreground_scores(clip(2, 4), clip(2, 7))
    assert (found.j_p, found.j_g, found.tiou) == (0.5, 1.0, 0.5)
    assert found.bi_fore == pytest.approx(2 / 3)
    assert (found.span_p, found.span_g) == ((2, 7), (2, 4))
    assert found.j == 9 / 12  # the plain figure lives on the empty frames


def test_a_gap_counts_in_the_span_and_not_in_the_frames():
    told = clip(2, 7)
    told[4] = False
    assert foreground_scores(clip(2, 7), told).j_p == pytest.approx(5 / 6)
    assert foreground_scores(clip(2, 7), told, span=False).j_p == 1.0


def test_empty_masklets():
    empty = np.zeros((12, 16, 20), dtype=bool)
    assert foreground_scores(empty, empty).bi_fore == 1.0
    assert foreground_scores(clip(2, 4), empty).bi_fore == 0.0
    assert foreground_scores(empty, clip(2, 4)).bi_fore == 0.0


def test_a_data_set_has_the_formula_on_means_and_counts_what_is_missing():
    truth = {name: clip(2, 4) for name in ("good", "long", "unparsed", "missing")}
    scores = bidirectional_foreground(truth, {"good": clip(2, 4), "long": clip(2, 7), "unparsed": clip(0, 1, 5)})
    found = scores.figures()
    assert (found["j_p"], found["j_g"]) == (37.5, 50.0)
    assert found["jf_bi_fore"] == pytest.approx(2 * 37.5 * 50 / 87.5)
    assert found["jf_bi_fore_question_mean"] == pytest.approx(100 * (1 + 2 / 3) / 4)
    assert scores.counts == {"questions": 4, "answered": 3, "parsed": 2, "missing": 1}


def test_a_true_masklet_that_is_none_is_refused():
    with pytest.raises(EvaluationError, match="q7: the truth must be one masklet"):
        bidirectional_foreground({"q7": np.zeros((3, 4))}, {})
