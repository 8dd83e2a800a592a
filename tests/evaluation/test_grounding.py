from __future__ import annotations

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeexpert.evaluation import MISSING, EvaluationError, moment_retrieval, temporal_iou
from timeexpert.evaluation.grounding import CONVENTIONS, loombench_when
from timeexpert.evaluation.scores import intervals, paired_differences

TRUTH = [(10.0, 20.0)]


def score(*args, **options):
    return moment_retrieval(*args, **options).to_json()


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
    figures = score([TRUTH], [[(10.0, 17.0)]])
    assert (figures["r1_0.5"], figures["r1_0.7"], figures["miou"]) == (100.0, 100.0, 70.0)
    assert score([TRUTH], [[(10.0, 16.9)]])["r1_0.7"] == 0.0


def test_only_the_first_predicted_segment_is_scored():
    figures = score([TRUTH], [[(50.0, 60.0), (10.0, 20.0)]])
    assert figures["r1_0.3"] == 0.0
    assert figures["extra_segments"] == 1


def test_the_first_segment_is_compared_with_its_best_true_segment():
    assert score([[(10.0, 20.0), (50.0, 60.0)]], [[(50.0, 60.0)]])["miou"] == 100.0


def test_answers_that_did_not_parse_or_are_empty_stay_in_the_denominator():
    figures = score([TRUTH] * 4, [[(10.0, 20.0)], None, [], [(0.0, 1.0)]])
    assert figures["r1_0.5"] == 25.0
    assert (figures["count"], figures["unparsed"], figures["empty"]) == (4, 1, 1)


def test_without_queries_there_is_no_figure():
    figures = score([], [])
    assert (figures["r1_0.5"], figures["miou"], figures["count"]) == (None, None, 0)


def test_unequal_lengths_and_queries_without_truth_are_refused():
    with pytest.raises(EvaluationError, match=r"truth has 2 items and predictions has 1.*Put None"):
        moment_retrieval([TRUTH, TRUTH], [None])
    with pytest.raises(EvaluationError, match=r"truth\[1\] has no segment"):
        moment_retrieval([TRUTH, []], [None, None])


def test_an_answer_that_is_not_there_is_told_from_one_that_did_not_parse():
    figures = score([TRUTH] * 4, [[(10.0, 20.0)], None, [], MISSING])
    assert (figures["r1_0.5"], figures["questions"], figures["answered"]) == (25.0, 4, 3)
    assert (figures["parsed"], figures["missing"], figures["unparsed"], figures["empty"]) == (2, 1, 2, 1)


def test_trace_leaves_answers_without_a_window_out_of_the_denominator():
    answers = [[(10.0, 20.0)], None, [], MISSING]
    assert score([TRUTH] * 4, answers, convention="trace")["r1_0.5"] == 100.0
    assert score([TRUTH], [None], convention="trace")["r1_0.5"] is None  # TRACE divides by zero here


def test_in_float32_an_iou_of_exactly_seven_tenths_is_a_miss():
    for convention, hit in {"strict": 100.0, "timechat": 100.0, "etchat": 0.0, "museg": 0.0}.items():
        assert score([TRUTH], [[(10.0, 17.0)]], convention=convention, thresholds=[0.7])["r1_0.7"] == hit, convention


def test_museg_looks_at_the_first_true_window_only():
    truth = [[(10.0, 20.0), (50.0, 60.0)]]
    assert score(truth, [[(50.0, 60.0)]], convention="museg")["miou"] == 0.0


def test_thresholds_are_a_parameter():
    figures = score([TRUTH], [[(10.0, 16.0)]], thresholds=(0.25, 0.6, 0.9))
    assert (figures["r1_0.25"], figures["r1_0.6"], figures["r1_0.9"]) == (100.0, 100.0, 0.0)
    assert figures["r1_mean"] == pytest.approx(200 / 3)
    with pytest.raises(EvaluationError, match=r"thresholds \[0\] must be one or more numbers above 0"):
        moment_retrieval([TRUTH], [[]], thresholds=[0])


def test_an_unknown_convention_is_refused_with_the_known_ones():
    with pytest.raises(
        EvaluationError, match="knows no convention 'timechatt'. Choose one of strict, timechat, vtgllm"
    ):
        moment_retrieval([TRUTH], [None], convention="timechatt")


@pytest.mark.parametrize("wrong", [(20.0, 10.0), (nan, 5.0), (1.0, float("inf")), ("a", "b")])
def test_truth_that_is_no_segment_is_refused_by_the_name_of_its_item(wrong):
    with pytest.raises(EvaluationError, match=r"truth of 'q2' holds the segment .*must be two finite numbers"):
        moment_retrieval([TRUTH, [(1.0, 2.0), wrong]], [None, None], items=["q1", "q2"])


def test_loombench_when_is_recall_at_half_and_the_mean_temporal_iou():
    figures = loombench_when([TRUTH, TRUTH], [[(10.0, 15.0)], None]).figures()
    assert figures == {"r1_0.5": 50.0, "tiou": 25.0}


def test_one_bootstrap_serves_every_figure():
    scores = moment_retrieval([TRUTH] * 50, [[(10.0, 20.0)]] * 25 + [None] * 25)
    low, high = intervals(scores)["miou"]
    assert 30 < low < 50 < high < 70
    assert paired_differences(scores, scores)["r1_0.5"]["interval"] == (0.0, 0.0)


anything = st.one_of(st.floats(), st.integers(), st.sampled_from([10**400, -(10**400), 1e308, -1e308, 5e-324]))
fuzzed = st.one_of(st.none(), st.just(MISSING), st.lists(st.tuples(anything, anything), max_size=4))


@given(st.lists(fuzzed, min_size=1, max_size=5), st.sampled_from(sorted(CONVENTIONS)))
def test_no_answer_breaks_a_figure(predictions, convention):
    scores = moment_retrieval([TRUTH] * len(predictions), predictions, convention=convention)
    assert all(value is None or 0.0 <= value <= 100.0 for value in scores.figures().values())
    assert scores.counts["questions"] == len(predictions) == scores.counts["unparsed"] + scores.counts["parsed"]
    assert scores.counts["missing"] == sum(p is MISSING for p in predictions)
