from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeexpert.evaluation import MISSING, EvaluationError
from timeexpert.evaluation.video_highlights import BENCHMARKS, CONVENTIONS, video_highlights

YOUTUBE = [[1], [0], [1]]


def score(*args, **options):
    return video_highlights(*args, **options).to_json()


def test_youtube_average_precision_is_the_area_by_trapezoids():
    assert score([YOUTUBE], [[0.9, 0.1, 0.8]], "youtube_highlights")["map"] == 100.0
    # ranks: miss, miss, hit: (0 + 1/3) / 2
    assert score([[[1], [0], [0]]], [[0.1, 0.9, 0.8]], "youtube_highlights")["map"] == pytest.approx(100 / 6)


def test_a_video_without_positives_leaves_the_mean_of_youtube_and_is_counted():
    figures = score([YOUTUBE, [[0], [0]]], [[3, 1, 2], [1, 2]], "youtube_highlights")
    assert (figures["map"], figures["without_positives"], figures["questions"]) == (100.0, 1, 2)
    assert score([[[0]]], [[1.0]], "youtube_highlights")["map"] is None


def test_tvsum_ranks_five_clips_against_each_annotators_own_lower_median():
    label = np.ones((8, 2))
    label[0, 0] = label[1, 1] = 5  # one positive clip each; the median is 1
    assert score([label], [[9, 8, 7, 6, 5, 4, 3, 2]], "tvsum")["map"] == pytest.approx(100 * (1 + (0 + 0.5) / 2) / 2)
    assert score([label], [[0, 0, 7, 6, 5, 4, 3, 2]], "tvsum")["map"] == 0.0  # not among the top five


def test_missing_videos_score_0_when_strict_and_leave_the_mean_in_lighthouse():
    told = [[0.9, 0.1, 0.8], MISSING]
    assert score([YOUTUBE] * 2, told, "youtube_highlights")["map"] == 50.0
    assert score([YOUTUBE] * 2, told, "youtube_highlights", convention="lighthouse")["map"] == 100.0


def test_domains_have_figures_of_their_own():
    figures = score([YOUTUBE] * 2, [[3, 1, 2], None], "youtube_highlights", domains=["dog", "Surfing"])
    assert (figures["map_dog"], figures["map_surfing"], figures["parsed"]) == (100.0, 0.0, 1)


def test_bad_labels_and_benchmarks_are_refused():
    with pytest.raises(EvaluationError, match=r"truth of 'v' must hold finite labels \[clips, annotators\]"):
        video_highlights([[1, 0]], [None], "tvsum", items=["v"])
    with pytest.raises(EvaluationError, match=r"benchmark \('tv'\) must be one of tvsum, youtube_highlights"):
        video_highlights([], [], "tv")


number = st.one_of(st.floats(), st.sampled_from([10**400, "x", -1e308]))
fuzzed = st.one_of(st.none(), st.just(MISSING), st.lists(number, max_size=6))


@given(st.lists(fuzzed, min_size=1, max_size=3), st.sampled_from(BENCHMARKS), st.sampled_from(sorted(CONVENTIONS)))
def test_no_answer_breaks_a_figure(predictions, benchmark, convention):
    figures = score([YOUTUBE] * len(predictions), predictions, benchmark, convention=convention)
    assert figures["map"] is None or 0.0 <= figures["map"] <= 100.0
    assert figures["questions"] == len(predictions)
