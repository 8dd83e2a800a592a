from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeexpert.evaluation import MISSING, EvaluationError, HighlightTruth, highlight_detection
from timeexpert.evaluation.highlights import CONVENTIONS, average_precision, clip_points, clip_scores

# A 10-second video, five clips, three annotators: clip 1 and clip 2 are liked.
TRUTH = HighlightTruth.from_annotations([1, 2], [[4, 2, 0], [3, 4, 1]], duration_s=10.0)
ONE = HighlightTruth.from_points([(4.0, 5.0)], duration_s=10.0)  # clip 2 only


def score(*args, **options):
    return highlight_detection(*args, **options).to_json()


def test_clip_i_covers_from_2i_up_to_but_not_2i_plus_2():
    for time_s in (4.0, 5.0, 5.9):
        assert score([ONE], [[(time_s, 1.0)]])["map"] == 100.0, time_s
    for time_s in (3.9, 6.0):
        assert score([ONE], [[(time_s, 1.0)]])["hit1"] == 0.0, time_s


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
    figures = score([TRUTH], [[(2.0, 5.0), (4.0, 4.0)]])
    assert (figures["hit1"], figures["map"]) == (100.0, 50.0)  # AP 1, 1/2 and 0
    assert figures["map_fair"] == pytest.approx(200 / 3)
    assert figures["map"] == figures["map_verygood"]


def test_the_score_of_the_annotators_own_mean_is_reported_beside_the_figure():
    assert score([TRUTH], [None])["map_truth_as_answer"] == pytest.approx((0.5 + 1.0 + 0.0) / 3 * 100)
    assert score([ONE], [None])["hit1_truth_as_answer"] == 100.0


@pytest.mark.parametrize("answer", [None, []])
def test_an_answer_without_points_is_a_miss_and_not_a_row_of_zeros(answer):
    figures = score([ONE, ONE], [[(4.0, 1.0)], answer])
    assert (figures["map"], figures["hit1"], figures["count"]) == (50.0, 50.0, 2)
    assert (figures["unparsed"], figures["empty"]) == ((1, 0) if answer is None else (0, 1))


def test_a_top_score_past_the_last_clip_misses_hit1_and_is_counted():
    figures = score([ONE], [[(4.0, 1.0), (10.0, 9.0)]])
    assert (figures["map"], figures["hit1"], figures["points_outside"]) == (100.0, 0.0, 1)


def test_a_clip_named_twice_keeps_its_highest_score():
    assert score([ONE], [[(4.0, 1.0), (5.0, 9.0), (0.0, 5.0)]])["hit1"] == 100.0


def test_hit1_looks_at_named_clips_even_when_all_scores_are_negative():
    assert score([ONE], [[(0.0, -3.0), (4.0, -1.0)]])["hit1"] == 100.0
    assert score([ONE], [[(0.0, -3.0), (4.0, -1.0)]])["map"] < 100.0  # clips not named score 0


def test_a_point_in_a_last_short_clip_counts_when_truth_is_points():
    truth = HighlightTruth.from_points([(9.0, 5.0)], duration_s=9.0)
    assert truth.scores.shape == (5, 1)
    assert score([truth], [[(8.5, 1.0)]])["map"] == 100.0


def test_annotations_that_do_not_fit_the_video_are_refused_by_name():
    with pytest.raises(EvaluationError, match=r"relevant_clip_ids holds 5, but a video of 10 s has clips 0 to 4"):
        HighlightTruth.from_annotations([1, 5], [[4, 4, 4], [4, 3, 2]], duration_s=10)
    with pytest.raises(EvaluationError, match=r"shape \(1, 3\) must have one row .* each of the 2 relevant_clip_ids"):
        HighlightTruth.from_annotations([1, 2], [[4, 4, 4]], duration_s=10)
    with pytest.raises(EvaluationError, match=r"a highlight at 12.0 s is outside the video of 10.0 s"):
        HighlightTruth.from_points([(12.0, 3.0)], duration_s=10.0)
    with pytest.raises(EvaluationError, match=r"duration_s \(inf\) must be positive"):
        HighlightTruth.from_points([], duration_s=float("inf"))


def test_points_that_are_not_finite_say_nothing_and_are_counted():
    figures = score([ONE, ONE], [[(4.0, 1.0), (float("nan"), 9.0), (0.0, float("inf"))], [(float("nan"), 1.0)]])
    assert (figures["map"], figures["hit1"], figures["points_invalid"], figures["parsed"]) == (50.0, 50.0, 3, 2)


@pytest.mark.parametrize(
    ("convention", "reads"), [("strict", [4.0, 5.9]), ("timechat", [5.0, 6.9]), ("trace", [6.0, 7.9])]
)
def test_conventions_place_a_time_in_different_clips(convention, reads):
    for time_s in reads:
        (scores,) = clip_scores([ONE], [[(time_s, 3.0)]], convention)
        assert scores.tolist() == [0, 0, 3, 0, 0], time_s


def test_times_of_one_clip_keep_the_highest_score_or_their_mean():
    points = [(4.5, 1.0), (5.0, 4.0)]
    assert clip_scores([ONE], [points], "strict")[0][2] == 4.0
    assert clip_scores([ONE], [[(5.0, 1.0), (6.0, 4.0)]], "timechat")[0][2] == 2.5


def test_an_answer_that_did_not_parse_earns_the_share_of_positives_in_timechat():
    assert score([ONE], [None], convention="timechat")["map"] == 20.0
    assert score([ONE], [None])["map"] == 0.0


def test_a_missing_query_leaves_the_mean_of_moment_detr():
    answers = [[(4.0, 1.0)], MISSING]
    assert score([ONE, ONE], answers)["map"] == 50.0
    figures = score([ONE, ONE], answers, convention="moment_detr")
    assert (figures["map"], figures["hit1"], figures["missing"]) == (100.0, 100.0, 1)


def test_videos_of_very_different_length_and_annotators_score_as_they_do_alone():
    rng = np.random.default_rng(0)
    truth, answers = [], []
    for clips, annotators in ((1, 3), (75, 3), (2000, 1), (30, 5), (74, 3)):
        truth.append(HighlightTruth(rng.integers(0, 5, (clips, annotators)).astype(float)))
        answers.append(clip_points(rng.integers(0, 6, clips)))
    together = highlight_detection(truth, answers)
    for i in range(len(truth)):
        alone = highlight_detection([truth[i]], [answers[i]])
        assert together.per_item["ap"][i] == pytest.approx(alone.figures()["map"] / 100, abs=1e-12)
        assert together.per_item["hit1"][i] == alone.figures()["hit1"] / 100


def test_clip_mapping_equals_timechat_and_trace(shared: Path):
    document = json.loads((shared / "oracles" / "text_parsers" / "clip_scores.json").read_text("utf-8"))
    seen = 0
    for case in document["cases"]:
        items = case["inputs"]["items"]
        truth = [HighlightTruth.from_annotations([], np.zeros((0, 3)), item["duration"]) for item in items]
        rows = [(item["timestamps"], item["scores"]) for item in items]
        pairs = [[(t[0], s[0]) for t, s in zip(ts, ss, strict=False) if t and s] for ts, ss in rows]  # TRACE: by place
        flat = [list(zip(sum(ts, []), sum(ss, []), strict=False)) for ts, ss in rows]  # TimeChat: two lists of numbers
        for convention, points in (("timechat", flat), ("trace", pairs)):
            for ours, theirs in zip(clip_scores(truth, points, convention), case["expected"][convention], strict=True):
                wanted = np.zeros(len(ours))
                for clip, value in theirs.items():
                    wanted[int(clip)] = value
                assert ours == pytest.approx(wanted, abs=1e-12)
                seen += 1
    assert seen > 50


number = st.one_of(st.floats(), st.sampled_from([10**400, -1e308, 1e308, 4.0]))
fuzzed = st.one_of(st.none(), st.just(MISSING), st.lists(st.tuples(number, number), max_size=4))


@given(st.lists(fuzzed, min_size=1, max_size=4), st.sampled_from(sorted(CONVENTIONS)))
def test_no_answer_breaks_a_figure(predictions, convention):
    scores = highlight_detection([TRUTH] * len(predictions), predictions, convention=convention)
    assert all(value is None or 0.0 <= value <= 100.0 for value in scores.figures().values())
    assert scores.counts["questions"] == len(predictions) == scores.counts["unparsed"] + scores.counts["parsed"]
