"""Rules that move times: each does what it says, and none reorders events or makes neighbours overlap."""

from itertools import pairwise

import numpy as np
import pytest

from timeexpert.reannotation.config import RefinementConfig
from timeexpert.reannotation.refinement import refine
from timeexpert.reannotation.traced import begin
from timeexpert.tokenization import Event


def refined(spans, cuts_s=(), readable_s=100.0, **settings):
    """Spans, and the reasons of each, after refinement."""
    events = begin([Event(start_s, end_s, (), "x") for start_s, end_s in spans])
    out = refine(events, readable_s, cuts_s, RefinementConfig(**settings))
    return [one.span for one in out], [[step.why for step in one.steps] for one in out]


def test_touching_events_snap_to_a_cut_together():
    spans, why = refined([(1.0, 3.0), (3.0, 6.0)], cuts_s=[3.2])
    assert spans == [(1.0, 3.2), (3.2, 6.0)]
    assert why == [["end snapped to the cut at 3.20 s"], ["start snapped to the cut at 3.20 s"]]


def test_a_boundary_goes_to_the_nearest_cut_within_reach_and_no_further():
    assert refined([(2.0, 10.0)], cuts_s=[1.6, 2.3, 10.6])[0] == [(2.3, 10.0)]
    assert refined([(2.0, 10.0)], cuts_s=[2.6, 9.3])[0] == [(2.0, 10.0)]
    assert refined([(2.0, 10.0)], cuts_s=[2.3], snap_s=0)[0] == [(2.0, 10.0)]


def test_both_ends_of_an_event_snap_in_one_step():
    spans, why = refined([(2.0, 5.0)], cuts_s=[2.2, 5.4])
    assert spans == [(2.2, 5.4)]
    assert why == [["start and end snapped to the cuts at 2.20 s and 5.40 s"]]


def test_a_short_event_is_not_squeezed_onto_a_cut():
    spans, _ = refined([(0.7, 1.75), (1.75, 2.3), (2.3, 9.0)], cuts_s=[2.0], min_length_s=0.5)
    assert spans[1][1] - spans[1][0] >= 0.5
    assert spans[0][1] <= spans[1][0] and spans[1][1] <= spans[2][0]


def test_the_ends_of_the_clip_are_not_pulled_to_a_cut_near_them():
    assert refined([(0.0, 10.0)], cuts_s=[0.3, 9.7], readable_s=10.0)[0] == [(0.0, 10.0)]


def test_a_small_overlap_is_trimmed_and_a_large_one_stays():
    spans, why = refined([(0.0, 5.2), (5.0, 9.0), (7.0, 12.0)])
    assert spans == [(0.0, 5.0), (5.0, 9.0), (7.0, 12.0)]
    assert why[0] == ["end trimmed to its neighbour, which begins at 5.00 s"]


def test_a_nested_event_stays_nested():
    assert refined([(0.0, 5.0), (4.0, 5.0), (4.6, 4.9)], min_length_s=0.2)[0] == [(0.0, 5.0), (4.0, 5.0), (4.6, 4.9)]


def test_small_gaps_are_closed_only_when_asked():
    assert refined([(0.0, 5.8), (5.9, 9.0)])[0] == [(0.0, 5.8), (5.9, 9.0)]
    spans, why = refined([(0.0, 5.8), (5.9, 9.0), (11.0, 12.0)], close_gap_s=0.2)
    assert spans == [(0.0, 5.9), (5.9, 9.0), (11.0, 12.0)]
    assert why[0] == ["end extended to its neighbour, which begins at 5.90 s"]


def test_an_end_past_the_clip_moves_to_its_last_frame_unless_it_is_only_rounded():
    spans, why = refined([(1.0, 10.4)], readable_s=10.0)
    assert spans == [(1.0, 10.0)] and why == [["end moved to where the readable clip ends, at 10.00 s"]]
    assert refined([(1.0, 10.005)], readable_s=10.0) == ([(1.0, 10.005)], [[]])


def test_short_events_grow_later_first_then_earlier_and_stay_where_there_is_no_room():
    assert refined([(1.0, 1.2), (3.0, 4.0)], min_length_s=0.5)[0] == [(1.0, 1.5), (3.0, 4.0)]
    assert refined([(1.0, 1.2), (1.3, 4.0)], min_length_s=0.5)[0] == [(0.8, 1.3), (1.3, 4.0)]
    assert refined([(0.0, 1.0), (1.0, 1.2), (1.2, 4.0)])[0] == [(0.0, 1.0), (1.0, 1.2), (1.2, 4.0)]
    assert refined([(9.9, 10.0)], readable_s=10.0, min_length_s=0.5)[0] == [(9.5, 10.0)]


def test_without_cuts_overlaps_and_short_events_nothing_changes():
    spans = [(0.0, 2.0), (2.0, 5.5), (7.25, 9.0)]
    assert refined(spans) == (spans, [[], [], []])


@pytest.mark.parametrize("seed", range(6))
def test_no_rule_reorders_events_or_makes_neighbours_overlap(seed):
    """Random events and cuts, dense enough that every rule meets every other."""
    rng = np.random.default_rng(seed)
    for _ in range(60):
        starts = np.round(rng.uniform(0, 20, rng.integers(1, 9)), 2)
        given = sorted((float(s), float(round(s + rng.choice([0, 0.2, 1, 3]), 2))) for s in starts)
        cuts = rng.uniform(0, 21, rng.integers(0, 12)).tolist()
        out, why = refined(given, cuts, 20.5, close_gap_s=0.4, trim_overlap_s=0.5, min_length_s=0.5)
        assert [s for s, _ in out] == sorted(s for s, _ in out)
        for (a, a_was), (b, b_was) in pairwise(zip(out, given, strict=True)):
            assert a[1] <= b[0] + 1e-9 or a_was[1] > b_was[0], (given, cuts, out)
        for now, was, steps in zip(out, given, why, strict=True):
            assert now[1] >= now[0] and now[1] <= 20.51
            assert (now == was) == (not steps)
            assert now[1] - now[0] >= min(0.5, was[1] - was[0]) - 1e-9 or now[1] <= 20.5 < was[1]
