from __future__ import annotations

from pathlib import Path

import pytest

from timeexpert.evaluation import EvaluationError, dense_captioning
from timeexpert.tokenization import Event, EventSequence

from .oracles import cases


def sequence(*rows: tuple[float, float, str]) -> EventSequence:
    return EventSequence(tuple(Event(s, e, text=t) for s, e, t in rows))


TRUTH = sequence((10, 20, "cut the onion."), (30, 50, "fry the onion."))


def test_a_perfect_answer_scores_100_everywhere():
    figures = dense_captioning([TRUTH], [TRUTH])
    percents = ("f1", "precision", "recall", "precision_0.9", "recall_0.3", "caption_exact_match_0.5")
    assert [figures[name] for name in percents] == [100.0] * 6
    assert (figures["count"], figures["predicted_events"], figures["true_events"]) == (1, 2, 2)


def test_an_iou_equal_to_the_threshold_is_a_miss():
    figures = dense_captioning([TRUTH], [sequence((10, 15, "cut the onion."))])  # IoU 0.5 with the first event
    assert (figures["precision_0.3"], figures["recall_0.3"]) == (100.0, 50.0)
    assert (figures["precision_0.5"], figures["recall_0.5"], figures["caption_pairs"]) == (0.0, 0.0, 0)
    assert figures["caption_exact_match_0.5"] is None
    assert figures["f1"] == pytest.approx(100 / 6)  # precision 25 and recall 12.5 over the four thresholds


def test_repeating_one_right_event_keeps_precision_but_not_recall():
    figures = dense_captioning([TRUTH], [sequence(*[(10, 20, "cut the onion")] * 3)])
    assert (figures["precision"], figures["recall"]) == (100.0, 50.0)


def test_f1_is_averaged_over_videos_after_each_videos_harmonic_mean():
    assert dense_captioning([TRUTH, TRUTH], [TRUTH, sequence((90, 99, "x"))])["f1"] == 50.0


def test_a_video_whose_answer_did_not_parse_scores_0_and_is_counted():
    figures = dense_captioning([TRUTH, TRUTH], [TRUTH, None])
    assert (figures["f1"], figures["unparsed"], figures["count"]) == (50.0, 1, 2)


def test_a_predicted_event_without_a_time_costs_precision():
    answer = EventSequence((TRUTH[0], Event(text="an onion")))
    assert dense_captioning([TRUTH], [answer])["precision"] == 50.0


def test_captions_match_up_to_case_space_and_full_stop_on_the_best_overlap():
    answer = sequence((10, 20, " Cut the  ONION"), (30, 41, "boil the onion"), (30, 49, "stir the onion"))
    figures = dense_captioning([TRUTH], [answer])
    assert (figures["caption_exact_match_0.5"], figures["caption_pairs"]) == (50.0, 2)


def test_truth_without_times_is_refused():
    with pytest.raises(EvaluationError, match=r"truth\[0\] must hold events that all have times"):
        dense_captioning([EventSequence((Event(text="an onion"),))], [None])


def test_figures_equal_the_youcook2_script(shared: Path):
    keys = {"f1": "F1_Score", "precision": "Precision_Mean", "recall": "Recall_Mean"}
    for t in (0.3, 0.5, 0.7, 0.9):
        keys |= {f"precision_{t}": f"Precision@{t}", f"recall_{t}": f"Recall@{t}"}
    seen = 0
    for name, inputs, expected in cases(shared, "dvc_youcook2", "timechat"):
        truth, predictions = [], []
        for row in inputs["ground_truth"]:
            truth.append(sequence(*[(s, e, "") for s, e in row["segments"]]))
            events = inputs["predictions"].get(row["image_id"])
            # The reference repairs reversed ends; an Event cannot be reversed, so the repair is made here.
            rows = [(*sorted(max(0.0, t) for t in e["timestamp"]), e["caption"]) for e in events or ()]
            predictions.append(None if events is None else sequence(*rows))
        figures = dense_captioning(truth, predictions)
        for ours, theirs in keys.items():
            assert figures[ours] == pytest.approx(100 * expected["mean"][theirs], abs=1e-6), (name, ours)
        seen += 1
    assert seen >= 20
