from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeexpert.evaluation import MISSING, EvaluationError, moment_map
from timeexpert.evaluation.moment_map import CONVENTIONS, THRESHOLDS
from timeexpert.evaluation.scores import intervals

TRUTH = [(10.0, 20.0), (40.0, 60.0)]
RIGHT = [(10.0, 20.0, 0.9), (40.0, 60.0, 0.8)]


def score(*args, **options):
    return moment_map(*args, **options).to_json()


def test_a_perfect_ranking_scores_100_and_its_windows_fall_in_two_length_ranges():
    figures = score([TRUTH], [RIGHT])
    assert [figures[name] for name in ("map", "map_0.5", "map_0.95", "r1_0.95", "map_short")] == [100.0] * 5
    assert figures["map_middle"] == 50.0  # the short window, ranked first, is a false positive among middle ones
    assert figures["map_long"] is None  # no true window of that length: no figure


def test_average_precision_by_hand():
    duplicate = [(10.0, 20.0, 0.9), (10.0, 20.0, 0.8), (40.0, 60.0, 0.7)]
    assert score([TRUTH], [duplicate])["map"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert score([TRUTH], [[(10.0, 20.0, 0.9)]])["map"] == 50.0


def test_windows_are_ranked_by_score_and_equal_scores_as_listed_but_r1_takes_the_first_listed():
    truth = [[(10.0, 20.0)]]
    listed = [(50.0, 60.0, 0.1), (10.0, 20.0, 0.9)]
    assert score(truth, [listed])["map"] == 100.0
    assert score(truth, [listed])["r1_0.5"] == 0.0
    assert score(truth, [[(50.0, 60.0, 0.5), (10.0, 20.0, 0.5)]])["map"] == 50.0


def test_each_window_takes_the_free_true_window_of_highest_iou():
    truth = [[(0.0, 10.0), (1.0, 11.0)]]
    assert score(truth, [[(0.0, 10.0, 2.0), (0.0, 10.0, 1.0)]])["map_0.75"] == 100.0  # the second takes what is left


def test_an_iou_equal_to_the_threshold_is_a_hit():
    figures = score([[(0.0, 10.0)]], [[(0.0, 5.0, 1.0)]])
    assert (figures["map_0.5"], figures["map_0.55"], figures["map"]) == (100.0, 0.0, 10.0)


def test_the_eleventh_window_does_not_count_and_is_reported():
    listed = [(100.0, 101.0 + k, 0.1) for k in range(10)] + [(10.0, 20.0, 0.9)]
    figures = score([TRUTH], [listed])
    assert (figures["map"], figures["windows"], figures["windows_not_counted"]) == (0.0, 11, 1)


def test_what_is_not_there_is_wrong_when_strict_and_leaves_the_mean_in_moment_detr():
    answers = [RIGHT, [], None, MISSING]
    strict = score([TRUTH] * 4, answers)
    assert (strict["map"], strict["r1_0.5"]) == (25.0, 25.0)
    assert (strict["questions"], strict["answered"], strict["parsed"], strict["empty"]) == (4, 3, 2, 1)
    assert score([TRUTH] * 4, answers, convention="moment_detr")["map"] == 100.0
    assert score([TRUTH] * 4, answers, convention="moment_detr")["r1_0.5"] == 33.33  # of three that are there


def test_0_over_0_is_no_hit_when_strict_and_a_hit_in_moment_detr():
    truth, told = [[(12.0, 12.0)]], [[(12.0, 12.0, 1.0)]]
    assert score(truth, told)["map"] == 0.0
    assert score(truth, told, convention="moment_detr")["map"] == 100.0


def test_truth_without_windows_is_refused_by_name():
    with pytest.raises(EvaluationError, match=r"truth of 'q7' has no segment; a query must have at least one"):
        moment_map([[]], [RIGHT], items=["q7"])
    assert score([[], TRUTH], [RIGHT, RIGHT], convention="lighthouse")["map"] == 100.0


def test_queries_of_very_different_size_score_as_they_do_alone():
    rng = np.random.default_rng(1)
    truth, told = [], []
    for size in (1, 2, 300, 7, 40, 1):
        begins = rng.integers(0, 100, size)
        truth.append([(float(b), float(b + 1 + rng.integers(0, 50))) for b in begins])
        told.append([(float(b), float(b + 20), float(rng.random())) for b in rng.integers(0, 100, 12)])
    together = moment_map(truth, told)
    for i in range(len(truth)):
        alone = moment_map([truth[i]], [told[i]])
        assert together.per_item["ap"][i] == pytest.approx(alone.figures()["map"] / 100, abs=1e-12)
        assert together.per_item["iou"][i] == alone.per_item["iou"][0]


def test_intervals_come_from_the_same_sums():
    low, high = intervals(moment_map([TRUTH] * 40, [RIGHT] * 20 + [[]] * 20))["map"]
    assert 25 < low < 50 < high < 75


number = st.one_of(st.floats(), st.sampled_from([10**400, -1e308, 1e308, 12.0, "x", None]))
fuzzed = st.one_of(st.none(), st.just(MISSING), st.lists(st.tuples(number, number, number), max_size=13))


@given(st.lists(fuzzed, min_size=1, max_size=4), st.sampled_from(sorted(CONVENTIONS)))
def test_no_answer_breaks_a_figure(predictions, convention):
    truth = [TRUTH, [(12.0, 12.0)], TRUTH, TRUTH][: len(predictions)]
    scores = moment_map(truth, predictions, convention=convention)
    assert all(value is None or 0.0 <= value <= 100.0 for value in scores.figures().values())
    assert scores.counts["questions"] == len(predictions)
    assert scores.counts["windows"] == sum(len(p) for p in predictions if p and p is not MISSING)
    assert len(THRESHOLDS) == 10
