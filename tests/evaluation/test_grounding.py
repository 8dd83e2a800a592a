from __future__ import annotations

from math import nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeexpert.evaluation import EvaluationError, moment_retrieval, temporal_iou

from .oracles import cases

TRUTH = [(10.0, 20.0)]
seconds = st.floats(0, 1e4, allow_nan=False)
segments = st.tuples(seconds, seconds)


def test_temporal_iou_is_intersection_over_union():
    assert temporal_iou((10, 20), (15, 25)) == pytest.approx(5 / 15)
    assert temporal_iou((10, 20), (10, 20)) == 1.0
    assert temporal_iou((10, 20), (20, 30)) == 0.0  # touching
    assert temporal_iou((10, 20), (90, 99)) == 0.0


@pytest.mark.parametrize("segment", [(12.0, 12.0), (20.0, 10.0)])
def test_a_zero_length_or_reversed_segment_overlaps_nothing_not_even_itself(segment):
    assert temporal_iou(segment, (10.0, 20.0)) == 0.0
    assert temporal_iou(segment, segment) == 0.0


@given(segments, segments)
def test_temporal_iou_is_symmetric_and_between_0_and_1(a, b):
    assert temporal_iou(a, b) == temporal_iou(b, a)
    assert 0.0 <= temporal_iou(a, b) <= 1.0


def test_a_time_that_is_not_finite_is_refused():
    with pytest.raises(EvaluationError, match=r"\(nan, 2.0\).*must be finite numbers of seconds"):
        temporal_iou((nan, 2.0), (1.0, 2.0))


def test_an_iou_equal_to_the_threshold_is_a_hit():
    figures = moment_retrieval([TRUTH], [[(10.0, 17.0)]])
    assert (figures["r1_0.5"], figures["r1_0.7"], figures["miou"]) == (100.0, 100.0, 70.0)
    assert moment_retrieval([TRUTH], [[(10.0, 16.9)]])["r1_0.7"] == 0.0


def test_only_the_first_predicted_segment_is_scored():
    figures = moment_retrieval([TRUTH], [[(50.0, 60.0), (10.0, 20.0)]])
    assert figures["r1_0.3"] == 0.0
    assert figures["extra_segments"] == 1


def test_the_first_segment_is_compared_with_its_best_true_segment():
    assert moment_retrieval([[(10.0, 20.0), (50.0, 60.0)]], [[(50.0, 60.0)]])["miou"] == 100.0


def test_answers_that_did_not_parse_or_are_empty_stay_in_the_denominator():
    figures = moment_retrieval([TRUTH] * 4, [[(10.0, 20.0)], None, [], [(0.0, 1.0)]])
    assert figures["r1_0.5"] == 25.0
    assert (figures["count"], figures["unparsed"], figures["empty"]) == (4, 1, 1)


def test_without_queries_there_is_no_figure():
    figures = moment_retrieval([], [])
    assert (figures["r1_0.5"], figures["miou"], figures["count"]) == (None, None, 0)


def test_unequal_lengths_and_queries_without_truth_are_refused():
    with pytest.raises(EvaluationError, match=r"truth has 2 items and predictions has 1.*Put None"):
        moment_retrieval([TRUTH, TRUTH], [None])
    with pytest.raises(EvaluationError, match=r"truth\[1\] has no segment"):
        moment_retrieval([TRUTH, []], [None, None])


@pytest.mark.parametrize("reference", ["timechat", "vtgllm", "etbench"])
def test_figures_equal_the_reference_scripts(shared: Path, reference):
    seen = 0
    for name, inputs, expected in cases(shared, "tvg_recall_at_1", reference):
        truth = [[tuple(row["timestamp"])] for row in inputs["ground_truth"]]
        predictions = [inputs["predictions"][str(row["id"])] for row in inputs["ground_truth"]]
        figures = moment_retrieval(truth, [[tuple(p) for p in segments] or None for segments in predictions])
        if reference == "etbench":  # fractions of three decimals; its float32 misses an IoU of exactly 0.7
            assert figures["unparsed"] == expected["failed"], name
            assert figures["miou"] == pytest.approx(100 * expected["mIoU"], abs=0.051), name
        else:
            for threshold in (0.3, 0.5, 0.7):
                assert figures[f"r1_{threshold}"] == pytest.approx(expected[f"R@{threshold}"], abs=1e-9), name
        seen += 1
    assert seen >= 18
