from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.evaluation import EvaluationError
from timeexpert.evaluation.caption_events import TimedCaptions
from timeexpert.evaluation.errors import MISSING
from timeexpert.evaluation.meteor import MeteorError
from timeexpert.evaluation.soda import CONVENTIONS, best_sum, matched_pairs, published_pairs, soda


def captions(*rows: tuple[float, float, str]) -> TimedCaptions:
    return TimedCaptions.of([row[:2] for row in rows], [row[2] for row in rows])


TRUTH = captions((0, 10, "a man opens the red door"), (20, 30, "the dog runs across the green field"))


class OverlapMeteor:
    """Stands in for METEOR: the share of the hypothesis's words that the reference has, as one statistic row."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def statistics(self, hypotheses, references):
        self.asked += [(h, r[0]) for h, r in zip(hypotheses, references, strict=True)]
        rows = []
        for h, (r,) in zip(hypotheses, references, strict=True):
            words, common = h.split(), sum(word in r.split() for word in h.split())
            rows.append([common, max(len(words), 1), common, max(len(words), 1), 0, common])
        return np.array(rows, dtype=np.float64).reshape(-1, 6)


def brute_force(values: np.ndarray) -> float:
    rows, columns = values.shape
    sizes = range(min(rows, columns) + 1)
    return max(
        sum(values[i, j] for i, j in zip(r, c, strict=True))
        for k in sizes
        for r in combinations(range(rows), k)
        for c in combinations(range(columns), k)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6))
def test_the_best_sum_is_the_best_of_all_matchings_that_do_not_cross(rows, columns, seed):
    values = np.random.default_rng(seed).integers(0, 5, (rows, columns)) / 4
    assert best_sum(values) == pytest.approx(brute_force(values))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6))
def test_the_matched_pairs_are_worth_the_best_sum(rows, columns, seed):
    values = np.random.default_rng(seed).integers(0, 5, (rows, columns)) / 4
    pairs = matched_pairs(values)[::-1]
    assert sum(values[pair] for pair in pairs) == pytest.approx(best_sum(values))
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in zip(pairs, pairs[1:], strict=False))


def test_the_published_program_may_take_pairs_worth_less():
    values = np.array([[0.0, 0.9], [0.8, 0.0]])
    assert (matched_pairs(values), published_pairs(values)) == ([(0, 1)], [(1, 0)])
    assert published_pairs(np.zeros((1, 1))) == [(0, 0)]  # and a pair worth nothing


def test_events_in_another_order_are_matched_in_time():
    swapped = captions((20, 30, TRUTH.captions[1]), (0, 10, TRUTH.captions[0]))
    for truth, told in ((TRUTH, swapped), (swapped, TRUTH)):
        assert soda([truth], [told], variant="d").figures()["soda_d"] == pytest.approx(100.0)
    as_published = soda([swapped], [TRUTH], variant="d", convention="soda").figures()
    assert as_published["soda_d"] == pytest.approx(50.0)  # truth that is not in order cannot reach 100 there


def test_extra_events_cost_precision_and_missed_ones_recall():
    more = captions((0, 10, "x"), (12, 14, "y"), (20, 30, "z"), (40, 50, "z"))
    figures = soda([TRUTH], [more], variant="d").figures()
    assert (figures["soda_d_precision"], figures["soda_d_recall"]) == (pytest.approx(50.0), pytest.approx(100.0))
    assert figures["soda_d"] == pytest.approx(200 / 3)


def test_meteor_is_asked_about_pairs_that_overlap_only():
    meteor = OverlapMeteor()
    assert soda([TRUTH], [TRUTH], meteor=meteor).figures()["soda_c"] == pytest.approx(100.0)
    assert len(meteor.asked) == 2


def test_the_true_caption_is_the_hypothesis_unless_the_right_roles_are_asked_for():
    told = captions((0, 10, "a man"))
    for roles, said in ((None, "a man opens the red door"), ("right", "a man")):
        meteor = OverlapMeteor()
        soda([captions((0, 10, "a man opens the red door"))], [told], meteor=meteor, roles=roles)
        assert meteor.asked[0][0] == said


def test_the_timechat_script_mixes_up_columns_of_more_than_ten_predictions():
    texts = [f"word{'abcdefghijkl'[i]} other{'abcdefghijkl'[i]}" for i in range(12)]
    events = captions(*((10 * i, 10 * i + 9, text) for i, text in enumerate(texts)))
    figure = {
        name: soda([events], [events], convention=name, meteor=OverlapMeteor()).figures()["soda_c"]
        for name in CONVENTIONS
    }
    assert figure["strict"] == figure["soda"] == pytest.approx(100.0)
    assert figure["timechat"] == figure["trace"] == pytest.approx(100 * 2 / 12)  # columns 0 and 1 alone stay


def test_a_right_caption_at_the_wrong_time_is_worth_nothing_unless_published_figures_are_asked_for():
    told = captions((50, 60, "a man opens the red door"))
    truth = captions((0, 10, "a man opens the red door"))
    for variant in ("a", "b"):
        figures = [
            soda([truth], [told], variant=variant, convention=name, meteor=OverlapMeteor()).figures()[f"soda_{variant}"]
            for name in ("strict", "soda")
        ]
        assert figures == [0.0, 100.0]


def test_several_references_best_or_concatenated():
    other = captions((100, 110, "x"), (120, 130, "y"))
    best = soda([[other, TRUTH]], [TRUTH], variant="d").figures()["soda_d"]
    together = soda([[other, TRUTH]], [TRUTH], variant="d", references="concatenated").figures()["soda_d"]
    assert (best, together) == (pytest.approx(100.0), pytest.approx(200 / 3))


@pytest.mark.parametrize("answer", [None, MISSING, captions()])
@pytest.mark.parametrize("variant", ["a", "b", "c", "d"])
def test_no_events_score_0(answer, variant):
    scores = soda([TRUTH], [answer], variant=variant, meteor=OverlapMeteor())
    assert scores.figures()[f"soda_{variant}"] == 0.0
    assert scores.counts["missing"] == (answer is MISSING)


def test_cider_of_a_perfect_answer_is_1000():
    figures = soda([TRUTH], [TRUTH], scorer="cider").figures()
    assert figures["soda_c"] == pytest.approx(1000.0)
    assert soda([TRUTH], [TRUTH], scorer="cider", roles="right").figures()["soda_c"] == pytest.approx(1000.0)


def test_thousands_of_events_need_no_recursion():
    times = np.arange(3000.0)
    many = TimedCaptions.of(np.stack([times, times + 1], axis=1), ["x"] * 3000)
    assert soda([many], [many], variant="d").figures()["soda_d"] == pytest.approx(100.0)


def test_what_is_not_known_or_not_there_is_refused():
    with pytest.raises(EvaluationError, match="variants a, b, c, d"):
        soda([TRUTH], [TRUTH], variant="e")
    with pytest.raises(EvaluationError, match="no convention 'x'"):
        soda([TRUTH], [TRUTH], variant="d", convention="x")
    with pytest.raises(MeteorError, match="pip install"):
        soda([TRUTH], [TRUTH])
    with pytest.raises(EvaluationError, match=r"v7 must hold events that all have times"):
        soda([captions((0, np.nan, "x"))], [TRUTH], variant="d", items=["v7"])


NUMBERS = st.floats() | st.integers(-(10**30), 10**30)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(NUMBERS, NUMBERS, st.text(max_size=20)), max_size=5),
    st.sampled_from("abcd"),
    st.sampled_from(sorted(CONVENTIONS)),
)
def test_no_prediction_raises_or_leaves_the_range(rows, variant, convention):
    scores = soda([[TRUTH, TRUTH]], [captions(*rows)], variant=variant, convention=convention, meteor=OverlapMeteor())
    assert all(value is None or -1e-9 <= value <= 100 + 1e-6 for value in scores.figures().values())
    assert scores.counts["predicted_events"] == len(rows)
