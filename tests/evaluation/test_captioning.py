from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.evaluation import EvaluationError, dense_captioning
from timeexpert.evaluation.caption_events import TimedCaptions
from timeexpert.evaluation.captioning import CONVENTIONS
from timeexpert.evaluation.errors import MISSING
from timeexpert.evaluation.scores import intervals, paired_differences
from timeexpert.tokenization import Event, EventSequence


def sequence(*rows: tuple[float, float, str]) -> EventSequence:
    return EventSequence(tuple(Event(s, e, text=t) for s, e, t in rows))


def said(truth, predictions, **options):
    scores = dense_captioning(truth, predictions, **options)
    return {**scores.figures(), **scores.counts}


TRUTH = sequence((10, 20, "cut the onion."), (30, 50, "fry the onion."))


def test_a_perfect_answer_scores_100_everywhere():
    figures = said([TRUTH], [TRUTH])
    percents = ("f1", "precision", "recall", "precision_0.9", "recall_0.3", "caption_exact_match_0.5")
    assert [figures[name] for name in percents] == [100.0] * 6
    assert (figures["count"], figures["predicted_events"], figures["true_events"]) == (1, 2, 2)


def test_an_iou_equal_to_the_threshold_is_a_miss():
    figures = said([TRUTH], [sequence((10, 15, "cut the onion."))])  # IoU 0.5 with the first event
    assert (figures["precision_0.3"], figures["recall_0.3"]) == (100.0, 50.0)
    assert (figures["precision_0.5"], figures["recall_0.5"], figures["caption_pairs"]) == (0.0, 0.0, 0)
    assert figures["caption_exact_match_0.5"] is None
    assert figures["f1"] == pytest.approx(100 / 6)  # precision 25 and recall 12.5 over the four thresholds


def test_repeating_one_right_event_keeps_precision_but_not_recall():
    figures = said([TRUTH], [sequence(*[(10, 20, "cut the onion")] * 3)])
    assert (figures["precision"], figures["recall"]) == (100.0, 50.0)


def test_f1_is_averaged_over_videos_after_each_videos_harmonic_mean():
    assert said([TRUTH, TRUTH], [TRUTH, sequence((90, 99, "x"))])["f1"] == 50.0


def test_a_video_whose_answer_did_not_parse_scores_0_and_is_counted():
    figures = said([TRUTH, TRUTH], [TRUTH, None])
    assert (figures["f1"], figures["unparsed"], figures["count"]) == (50.0, 1, 2)


def test_a_predicted_event_without_a_time_costs_precision():
    answer = EventSequence((TRUTH[0], Event(text="an onion")))
    assert said([TRUTH], [answer])["precision"] == 50.0


def test_captions_match_up_to_case_space_and_full_stop_on_the_best_overlap():
    answer = sequence((10, 20, " Cut the  ONION"), (30, 41, "boil the onion"), (30, 49, "stir the onion"))
    figures = said([TRUTH], [answer])
    assert (figures["caption_exact_match_0.5"], figures["caption_pairs"]) == (50.0, 2)


def test_truth_without_times_is_refused():
    with pytest.raises(EvaluationError, match=r"truth\[0\] must hold events that all have times"):
        dense_captioning([EventSequence((Event(text="an onion"),))], [None])


def test_found_events_with_the_same_words_get_the_whole_of_cider_bleu_and_rouge():
    figures = said([TRUTH], [TRUTH])
    assert figures["cider"] == pytest.approx(750.0)  # of 1000: captions of three words have no four in a row
    assert figures["rouge_l"] == 100.0
    assert figures["bleu_3"] == pytest.approx(100.0)
    assert "meteor" not in figures


def test_wrong_words_for_a_found_event_score_0_in_cider():
    wrong = sequence((10, 20, "wash a car."), (30, 50, "paint some wall."))
    assert said([TRUTH], [wrong])["f1"] == 100.0
    assert said([TRUTH], [wrong])["cider"] == 0.0


def test_missing_videos_are_zeros_or_left_out_as_the_convention_says():
    strict = dense_captioning([TRUTH, TRUTH], [TRUTH, MISSING])
    trace = dense_captioning([TRUTH, TRUTH], [TRUTH, MISSING], convention="trace")
    assert (strict.figures()["f1"], trace.figures()["f1"]) == (50.0, 100.0)
    for scores in (strict, trace):
        counts = {name: scores.counts[name] for name in ("questions", "answered", "parsed", "missing")}
        assert counts == {"questions": 2, "answered": 1, "parsed": 1, "missing": 1}
    assert trace.policies["missing"] == "skip"


def test_the_activitynet_script_averages_over_videos_before_the_harmonic_mean():
    half = sequence((10, 20, "cut"), (60, 70, "x"), (70, 80, "x"))  # precision 1/3, recall 1/2
    once = said([TRUTH, TRUTH], [TRUTH, half], convention="anet")
    assert once["f1"] == pytest.approx(100 * 2 * (2 / 3) * (3 / 4) / (2 / 3 + 3 / 4))
    assert said([TRUTH, TRUTH], [TRUTH, half])["f1"] == pytest.approx(100 * (1 + 2 * (1 / 3) * 0.5 / (1 / 3 + 0.5)) / 2)


def test_precision_and_recall_take_the_best_of_several_references():
    other = sequence((60, 70, "wash."))
    figures = said([[other, TRUTH]], [TRUTH])
    assert (figures["precision"], figures["recall"], figures["true_events"]) == (100.0, 100.0, 3)


def test_a_paragraph_stands_beside_its_own_video_unless_a_script_zips_its_lists():
    truth = [sequence((0, 9, text)) for text in ("cut the onion now", "fry the onion now", "eat it all up")]
    told = [MISSING, truth[1], truth[2]]
    assert said(truth, told)["paragraph_cider"] == pytest.approx(2 / 3 * 1000)
    assert said(truth, told, convention="timechat")["paragraph_cider"] < 500  # video 2 beside the truth of video 1


def test_intervals_and_differences_are_drawn_from_the_same_sums():
    truth = [TRUTH] * 6
    a = dense_captioning(truth, [TRUTH, None] * 3)
    b = dense_captioning(truth, truth)
    low, high = intervals(a, samples=200)["f1"]
    assert low < 50.0 < high
    assert paired_differences(a, b, samples=200)["cider"]["difference"] == pytest.approx(375.0)


def test_without_meteor_a_note_says_how_to_install_it():
    (note,) = dense_captioning([TRUTH], [TRUTH]).notes
    assert "pip install 'timeexpert[eval]'" in note and "apt-get install default-jre-headless" in note


def test_an_unknown_convention_is_refused_with_the_known_ones():
    with pytest.raises(EvaluationError, match=r"no convention 'yolo'. Choose one of strict, timechat, .*anet"):
        dense_captioning([TRUTH], [TRUTH], convention="yolo")


def test_no_videos_have_no_figures():
    assert all(value is None for value in dense_captioning([], []).figures().values())


ANY_NUMBER = st.floats() | st.integers(-(10**30), 10**30)
ANY_EVENTS = st.lists(st.tuples(ANY_NUMBER, ANY_NUMBER, st.text(max_size=40)), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(ANY_EVENTS | st.none() | st.just(MISSING), min_size=1, max_size=4), st.sampled_from(sorted(CONVENTIONS))
)
def test_no_prediction_raises_or_leaves_the_range(answers, convention):
    told = [TimedCaptions.of([e[:2] for e in a], [e[2] for e in a]) if isinstance(a, list) else a for a in answers]
    scores = dense_captioning([TRUTH] * len(told), told, convention=convention)
    for name, value in scores.figures().items():
        top = 1000.0 if "cider" in name else 100.0
        assert value is None or -1e-9 <= value <= top + 1e-6, (name, value)
    assert scores.counts["questions"] == len(told)
    assert scores.counts["missing"] == sum(a is MISSING for a in told)
    assert scores.counts["parsed"] == sum(isinstance(a, TimedCaptions) for a in told)
    json.dumps(scores.to_json(), allow_nan=False)


def test_a_hundred_thousand_predicted_events_are_scored():
    times = np.sort(np.random.default_rng(0).uniform(0, 60, (100_000, 2)), axis=1)
    told = TimedCaptions.of(times, ["cut the onion"] * len(times))
    scores = dense_captioning([TRUTH], [told])
    assert scores.counts["predicted_events"] == 100_000
    assert 0 < scores.figures()["precision"] < 100 and scores.figures()["recall"] == 100.0
