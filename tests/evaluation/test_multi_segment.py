from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeexpert.evaluation import MISSING, multi_segment_f1
from timeexpert.evaluation.multi_segment import CONVENTIONS, best_overlaps

TRUTH = [(10.0, 20.0), (50.0, 60.0)]


def score(*args, **options):
    return multi_segment_f1(*args, **options).to_json()


def test_f1_of_one_query_is_the_harmonic_mean_of_found_and_right_segments():
    figures = score([TRUTH], [[(10.0, 20.0)]])
    assert (figures["precision_0.5"], figures["recall_0.5"]) == (100.0, 50.0)
    assert figures["f1"] == pytest.approx(200 / 3)


def test_a_segment_told_twice_counts_twice_in_precision_and_once_in_recall():
    figures = score([TRUTH], [[(10.0, 20.0), (10.0, 20.0)]])
    assert (figures["precision_0.7"], figures["recall_0.7"]) == (100.0, 50.0)


def test_one_segment_over_two_true_ones_finds_both_up_to_half():
    figures = score([[(0.0, 20.0), (20.0, 40.0)]], [[(0.0, 40.0)]])
    assert (figures["f1_0.5"], figures["f1_0.7"], figures["f1"]) == (100.0, 0.0, 75.0)


def test_exactly_seven_tenths_is_a_hit_in_float64_and_a_miss_in_float32():
    told = [[(10.0, 17.0), (50.0, 57.0)]]
    assert score([TRUTH], told)["f1_0.7"] == 100.0
    assert score([TRUTH], told, convention="museg")["f1_0.7"] == 0.0


def test_f1_is_averaged_over_all_queries():
    figures = score([TRUTH] * 4, [TRUTH, None, [], MISSING])
    assert (figures["f1"], figures["parsed"], figures["answered"], figures["empty"]) == (25.0, 2, 3, 1)
    assert (figures["predicted_segments"], figures["true_segments"]) == (2, 8)


def test_many_segments_are_compared_piece_by_piece():
    rng = np.random.default_rng(0)
    predicted = np.sort(rng.uniform(0, 1000, (100_000, 2)), axis=1)
    true = np.sort(rng.uniform(0, 1000, (30, 2)), axis=1)
    best_P, best_T = best_overlaps(predicted, true)
    part_P, part_T = best_overlaps(predicted[:50], true)
    assert best_P[:50] == pytest.approx(part_P, abs=0)
    assert (best_T >= part_T).all() and best_T.max() == best_P.max()
    figures = score([[tuple(row) for row in true.tolist()]], [predicted])
    assert 0 < figures["f1_0.7"] < 100 and figures["predicted_segments"] == 100_000


number = st.one_of(st.floats(), st.sampled_from([10**400, -1e308, 1e308, 12.0, "x"]))
fuzzed = st.one_of(st.none(), st.just(MISSING), st.lists(st.tuples(number, number), max_size=5))


@given(st.lists(fuzzed, min_size=1, max_size=4), st.sampled_from(sorted(CONVENTIONS)))
def test_no_answer_breaks_a_figure(predictions, convention):
    scores = multi_segment_f1([TRUTH] * len(predictions), predictions, convention=convention)
    assert all(0.0 <= value <= 100.0 for value in scores.figures().values())
    assert scores.counts["questions"] == len(predictions)
