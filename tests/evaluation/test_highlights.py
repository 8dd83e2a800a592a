from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from timeexpert.evaluation import EvaluationError, HighlightTruth, highlight_detection
from timeexpert.evaluation.highlights import average_precision

from .oracles import cases

# A 10-second video, five clips, three annotators: clip 1 and clip 2 are liked.
TRUTH = HighlightTruth.from_annotations([1, 2], [[4, 2, 0], [3, 4, 1]], duration_s=10.0)
ONE = HighlightTruth.from_points([(4.0, 5.0)], duration_s=10.0)  # clip 2 only


def test_clip_i_covers_from_2i_up_to_but_not_2i_plus_2():
    for time_s in (4.0, 5.0, 5.9):
        assert highlight_detection([ONE], [[(time_s, 1.0)]])["map"] == 100.0, time_s
    for time_s in (3.9, 6.0):
        assert highlight_detection([ONE], [[(time_s, 1.0)]])["hit1"] == 0.0, time_s


def test_average_precision_by_hand():
    positive = np.array([True, False, True, False])
    assert average_precision(positive, np.array([4.0, 3.0, 2.0, 1.0])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(positive, np.zeros(4)) == 0.5  # one level: the share of positives
    assert average_precision(positive & False, np.zeros(4)) == 0.0
    assert average_precision(positive | True, np.zeros(4)) == 1.0


def test_average_precision_takes_the_best_precision_at_or_below_a_level():
    positive = np.array([False, True, True])
    assert average_precision(positive, np.array([3.0, 2.0, 1.0])) == pytest.approx(2 / 3)  # 1/2 is lifted to 2/3


def test_hit1_asks_any_annotator_and_map_averages_over_them():
    figures = highlight_detection([TRUTH], [[(2.0, 5.0), (4.0, 4.0)]])
    assert (figures["hit1"], figures["map"]) == (100.0, 50.0)  # AP 1, 1/2 and 0
    assert figures["map_fair"] == pytest.approx(200 / 3)
    assert figures["map"] == figures["map_verygood"]


def test_the_score_of_the_annotators_own_mean_is_reported_beside_the_figure():
    assert highlight_detection([TRUTH], [None])["map_truth_as_answer"] == pytest.approx((0.5 + 1.0 + 0.0) / 3 * 100)
    assert highlight_detection([ONE], [None])["hit1_truth_as_answer"] == 100.0


@pytest.mark.parametrize("answer", [None, []])
def test_an_answer_without_points_is_a_miss_and_not_a_row_of_zeros(answer):
    figures = highlight_detection([ONE, ONE], [[(4.0, 1.0)], answer])
    assert (figures["map"], figures["hit1"], figures["count"]) == (50.0, 50.0, 2)
    assert (figures["unparsed"], figures["empty"]) == ((1, 0) if answer is None else (0, 1))


def test_a_top_score_past_the_last_clip_misses_hit1_and_is_counted():
    figures = highlight_detection([ONE], [[(4.0, 1.0), (10.0, 9.0)]])
    assert (figures["map"], figures["hit1"], figures["points_outside"]) == (100.0, 0.0, 1)


def test_a_clip_named_twice_keeps_its_highest_score():
    assert highlight_detection([ONE], [[(4.0, 1.0), (5.0, 9.0), (0.0, 5.0)]])["hit1"] == 100.0


def test_hit1_looks_at_named_clips_even_when_all_scores_are_negative():
    assert highlight_detection([ONE], [[(0.0, -3.0), (4.0, -1.0)]])["hit1"] == 100.0
    assert highlight_detection([ONE], [[(0.0, -3.0), (4.0, -1.0)]])["map"] < 100.0  # clips not named score 0


def test_a_point_in_a_last_short_clip_counts_when_truth_is_points():
    truth = HighlightTruth.from_points([(9.0, 5.0)], duration_s=9.0)
    assert truth.scores.shape == (5, 1)
    assert highlight_detection([truth], [[(8.5, 1.0)]])["map"] == 100.0


def test_annotations_that_do_not_fit_the_video_are_refused_by_name():
    with pytest.raises(EvaluationError, match=r"relevant_clip_ids holds 5, but a video of 10 s has clips 0 to 4"):
        HighlightTruth.from_annotations([1, 5], [[4, 4, 4], [4, 3, 2]], duration_s=10)
    with pytest.raises(EvaluationError, match=r"shape \(1, 3\) must have one row .* each of the 2 relevant_clip_ids"):
        HighlightTruth.from_annotations([1, 2], [[4, 4, 4]], duration_s=10)
    with pytest.raises(EvaluationError, match=r"a highlight at 12.0 s is outside the video of 10.0 s"):
        HighlightTruth.from_points([(12.0, 3.0)], duration_s=10.0)
    with pytest.raises(EvaluationError, match=r"duration_s \(inf\) must be positive"):
        HighlightTruth.from_points([], duration_s=float("inf"))
    with pytest.raises(EvaluationError, match=r"highlight \(nan, 1.0\) must be two finite numbers"):
        highlight_detection([ONE], [[(float("nan"), 1.0)]])


def test_figures_equal_moment_detr(shared: Path):
    levels = {"fair": "HL-min-Fair", "good": "HL-min-Good", "verygood": "HL-min-VeryGood"}
    seen = 0
    for name, inputs, expected in cases(shared, "qvh_highlight", "moment_detr"):
        answers = {row["qid"]: row["pred_saliency_scores"] for row in inputs["submission"]}
        truth = [
            HighlightTruth.from_annotations(row["relevant_clip_ids"], row["saliency_scores"], row["duration"])
            for row in inputs["ground_truth"]
        ]
        predictions = [
            [(2.0 * clip, score) for clip, score in enumerate(answers[row["qid"]])] for row in inputs["ground_truth"]
        ]
        figures = highlight_detection(truth, predictions)
        for ours, theirs in levels.items():
            assert figures[f"map_{ours}"] == pytest.approx(expected[theirs]["HL-mAP"], abs=0.0051), (name, ours)
            assert figures[f"hit1_{ours}"] == pytest.approx(expected[theirs]["HL-Hit1"], abs=0.0051), (name, ours)
        seen += 1
    assert seen >= 20


def test_unrounded_average_precisions_equal_moment_detr(shared: Path):
    for name, inputs, expected in cases(shared, "qvh_highlight", "moment_detr.per_query"):
        answers = {row["qid"]: row["pred_saliency_scores"] for row in inputs["submission"]}
        rows = {row["qid"]: row for row in inputs["ground_truth"]}
        for i, qid in enumerate(expected["order"]):
            row = rows[qid]
            truth = HighlightTruth.from_annotations(row["relevant_clip_ids"], row["saliency_scores"], row["duration"])
            scores = np.zeros(len(truth.scores))
            given = np.array(answers[qid], dtype=float)[: len(scores)]
            scores[: len(given)] = given
            for level, minimum in (("Fair", 2), ("Good", 3), ("VeryGood", 4)):
                ours = [average_precision(column >= minimum, scores) for column in truth.scores.T]
                assert ours == pytest.approx(expected[level]["ap"][i], abs=1e-7), (name, qid, level)
