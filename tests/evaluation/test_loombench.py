from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.evaluation import EvaluationError
from timeexpert.evaluation.loombench import LoomAnswer, LoomQuestion, _within, loombench, loombench_kind
from timeexpert.evaluation.per_question import per_question
from timeexpert.evaluation.results import Scored

TIMES_S = np.arange(20) * 0.5


def masks(first: int, last: int) -> np.ndarray:
    found = np.zeros((20, 12, 16), dtype=bool)
    found[first : last + 1, 3:8, 4:10] = True
    return found


def question(kind: str, start_s: float = 2.0, end_s: float = 4.0) -> LoomQuestion:
    return LoomQuestion(kind, (start_s, end_s), masks(0, 19) if kind == "where" else masks(4, 8), TIMES_S)


def test_when_is_recall_and_iou_of_segments():
    asked = {name: question("when") for name in ("right", "half", "reversed", "none")}
    told = {
        "right": LoomAnswer((2.0, 4.0)),
        "half": LoomAnswer((2.0, 3.0)),
        "reversed": LoomAnswer((4.0, 2.0)),
        "none": None,
    }
    scores = loombench(asked, told)["when"]
    assert scores.figures() == {"r1_0.5": 50.0, "tiou": 37.5}
    assert scores.counts == {"questions": 4, "answered": 4, "parsed": 2, "missing": 0}


def test_where_looks_at_the_given_segment_alone():
    told = masks(0, 6)  # of the frames 4 to 8 that lie in the segment: 4, 5 and 6
    scores = loombench({"q": question("where"), "r": question("where")}, {"q": LoomAnswer(masks=told)})["where"]
    assert scores.figures()["j"] == pytest.approx(100 * 3 / 5 / 2)
    assert scores.counts["missing"] == 1


def test_combined_keeps_masks_inside_the_predicted_segment():
    asked = {"q": question("combined")}
    whole = loombench(asked, {"q": LoomAnswer((2.0, 4.0), masks(0, 19))})["combined"].figures()
    assert (whole["jf_bi_fore"], whole["tiou"]) == (100.0, 100.0)
    half = loombench(asked, {"q": LoomAnswer((2.0, 6.0), masks(0, 19))})["combined"].figures()
    assert half["tiou"] == 50.0 and half["jf_g"] == 100.0 and half["jf_p"] == pytest.approx(100 * 5 / 9)
    alone = loombench(asked, {"q": LoomAnswer(masks=masks(4, 7))})["combined"].figures()
    assert alone["tiou"] == 100.0 and alone["jf_g"] == 80.0  # frames 4 to 7 last from 2.0 to 4.0 s


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_masks_that_are_cut_to_a_segment_keep_their_type(kind):
    masks = np.ones((3, 2, 2), dtype=kind)
    cut = _within(masks, np.array([True, False, True]))
    assert cut.dtype == kind and cut.sum(axis=(1, 2)).tolist() == [4, 0, 4] and masks.all()


def test_controls_leave_out_what_one_half_of_the_answer_says():
    asked = {"q": question("combined")}  # 30 of 192 pixels in frames 4 to 8 of 20
    told = {"q": LoomAnswer((2.0, 4.0), masks(0, 19))}

    def figures(control):
        return loombench_kind("combined", asked, told, control=control).figures()

    both, time_only, mask_only = figures(None), figures("time_only"), figures("mask_only")
    assert (both["j_p"], both["j_g"], both["tiou"]) == (100.0, 100.0, 100.0)
    assert time_only["j_p"] == time_only["j_g"] == pytest.approx(100 * 30 / 192) and time_only["tiou"] == 100.0
    assert mask_only["jf_g"] == 100.0 and mask_only["jf_p"] == 25.0  # 5 of 20 frames, the others show it for nothing
    assert mask_only["tiou"] == pytest.approx(100 * 2.0 / 9.5)
    for control, said in (("time_only", LoomAnswer(None, masks(0, 19))), ("mask_only", LoomAnswer((2.0, 4.0)))):
        scores = loombench_kind("combined", asked, {"q": said}, control=control)
        assert scores.figures()["jf_bi_fore"] == 0.0 and scores.counts["parsed"] == 0


def test_the_values_of_each_question_have_the_tables_figures_as_their_means():
    asked = {f"{kind}-{i}": question(kind) for kind in ("when", "where", "combined") for i in range(3)}
    told = {
        "when-0": LoomAnswer((2.0, 3.0)),
        "when-1": None,
        "where-0": LoomAnswer(masks=masks(0, 6)),
        "combined-0": LoomAnswer((2.0, 6.0), masks(0, 19)),
        "combined-1": LoomAnswer((3.0, 4.0), masks(0, 19)),
        "combined-2": LoomAnswer((3.0, 4.0)),
    }
    scored = {f"loombench_{kind}": Scored([], [], scores) for kind, scores in loombench(asked, told).items()}
    found = list(per_question(scored))
    assert [(row["id"], row["answered"], row["parsed"]) for row in found] == [
        *(("when-0", True, True), ("when-1", True, False), ("when-2", False, False)),
        *(("where-0", True, True), ("where-1", False, False), ("where-2", False, False)),
        *(("combined-0", True, True), ("combined-1", True, True), ("combined-2", True, False)),
    ]
    assert (found[0]["kind"], found[0]["tiou"], found[0]["r1_0.5"]) == ("when", 50.0, 100.0)
    assert found[6]["jf_g"] == 100.0 and found[6]["jf_bi_fore"] == pytest.approx(2 * 100 * 5 / 9 / (1 + 5 / 9))
    for task, one in scored.items():
        own = [row for row in found if row["task"] == task]
        for name, figure in one.scores.figures().items():
            if name == "jf_bi_fore":  # of the means of its parts, not the mean of the questions
                continue
            column = name.removesuffix("_question_mean")
            assert np.mean([row[column] for row in own]) == pytest.approx(figure), (task, name)


def test_a_kind_that_nothing_asks_for_has_no_figure():
    for kind in ("when", "where", "combined"):
        assert set(loombench_kind(kind, {}, {}).figures().values()) == {None}


def test_a_combined_answer_without_masks_scores_zero():
    scores = loombench({"q": question("combined")}, {"q": LoomAnswer((2.0, 4.0))})["combined"]
    assert scores.figures()["jf_bi_fore"] == 0.0 and scores.counts["parsed"] == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (LoomQuestion("why", (0.0, 1.0)), "q: kind 'why' is not one of when, where, combined"),
        (LoomQuestion("when", (1.0, 1.0)), r"q: segment_s \(\(1.0, 1.0\)\) must be two finite numbers"),
        (LoomQuestion("where", (0.0, 1.0)), "q: a where question needs masks"),
        (LoomQuestion("where", (0.0, 1.0), masks(0, 3), TIMES_S[::-1]), "q: frame_times_s must be finite and rise"),
        (LoomQuestion("combined", (90.0, 91.0), masks(0, 3), TIMES_S), "q: no frame lies in segment_s"),
    ],
)
def test_truth_that_cannot_be_scored_is_refused(asked, words):
    with pytest.raises(EvaluationError, match=words):
        loombench({"q": asked}, {})


number = st.floats() | st.integers() | st.text(max_size=3) | st.none()


@settings(max_examples=60, deadline=None)
@given(st.none() | st.tuples(number, number) | st.lists(number, max_size=3), st.integers(0, 6))
def test_no_answer_raises_or_leaves_the_range(segment, which):
    array = [
        None,
        masks(0, 19),
        np.full((20, 12, 16), np.nan),
        np.zeros((3, 3)),
        "mask",
        masks(5, 6) * 300.0,
        masks(9, 3),
    ]
    asked = {kind: question(kind) for kind in ("when", "where", "combined")}
    answers = {kind: LoomAnswer(segment, array[which]) for kind in asked}
    for scores in loombench(asked, answers).values():
        assert all(value is not None and 0 <= value <= 100 for value in scores.figures().values())
        assert scores.counts["questions"] == 1
