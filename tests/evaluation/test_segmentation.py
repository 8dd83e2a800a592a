from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.evaluation import EvaluationError
from timeexpert.evaluation.frame_labels import FrameLabels, read_frame_labels
from timeexpert.evaluation.oracle import run_family
from timeexpert.evaluation.scores import intervals
from timeexpert.evaluation.segmentation import CONVENTIONS, OVERLAPS, action_segmentation, levenshtein

BACKGROUND = "background"


def runs(*pairs: tuple[str, int]) -> FrameLabels:
    return FrameLabels.from_runs(pairs)


def figures(truth: FrameLabels, predicted: FrameLabels | None, convention: str = "strict") -> dict:
    return action_segmentation({"v": truth}, {"v": predicted}, convention=convention).figures()


def test_figures_that_a_reader_can_check_by_hand():
    found = figures(runs(("a", 10), ("b", 10)), runs(("a", 5), (BACKGROUND, 5), ("b", 10)))
    assert found == {
        "accuracy": 75.0, "accuracy_foreground": 75.0, "edit": 100.0, "f1_0.1": 100.0, "f1_0.25": 100.0, "f1_0.5": 100.0
    }  # fmt: skip


def test_background_counts_in_accuracy_but_not_in_its_foreground_part():
    found = figures(runs((BACKGROUND, 8), ("a", 2)), runs((BACKGROUND, 10)))
    assert (found["accuracy"], found["accuracy_foreground"], found["edit"], found["f1_0.1"]) == (80.0, 0.0, 0.0, 0.0)


def test_strict_pairs_what_ms_tcn_gives_up():
    # The second piece overlaps both true segments; it overlaps the first more, which the first piece has taken.
    truth = runs(("a", 20), ("c", 1), ("a", 6))
    told = runs(("a", 9), ("b", 1), ("a", 17))
    found = {name: action_segmentation({"v": truth}, {"v": told}, convention=name) for name in CONVENTIONS}
    assert found["strict"].statistics[0, -3:].tolist() == [2, 2, 0]
    assert found["ms_tcn"].statistics[0, -3:].tolist() == [1, 1, 0]


def test_a_set_without_an_action_has_no_f1_and_a_perfect_edit_unless_ms_tcn_is_asked():
    empty = runs((BACKGROUND, 5))
    strict, ms_tcn = figures(empty, empty), figures(empty, empty, "ms_tcn")
    assert (strict["edit"], strict["f1_0.5"]) == (100.0, None)
    assert (ms_tcn["edit"], ms_tcn["f1_0.5"]) == (None, 0.0)


def test_missing_and_unparsed_videos_score_zero_and_are_counted():
    truth = {name: runs(("a", 5)) for name in ("there", "unparsed", "missing")}
    scores = action_segmentation(truth, {"there": runs(("a", 5)), "unparsed": None, "other": runs(("a", 1))})
    assert scores.figures()["accuracy"] == pytest.approx(100 / 3)
    assert scores.figures()["f1_0.5"] == 50.0  # 1 found of 3 true, 1 predicted
    counts = {"questions": 3, "answered": 2, "parsed": 1, "missing": 1, "unknown": 1, "shorter": 0, "longer": 0}
    assert scores.counts == counts


def test_a_prediction_that_ends_early_is_wrong_for_the_rest():
    scores = action_segmentation({"v": runs(("a", 10))}, {"v": runs(("a", 6))})
    assert scores.figures()["accuracy"] == 60.0
    assert scores.counts["shorter"] == 1


def test_intervals_come_from_the_videos():
    truth = {str(i): runs(("a", 10)) for i in range(20)}
    told = {str(i): runs(("a" if i % 2 else "b", 10)) for i in range(20)}
    low, high = intervals(action_segmentation(truth, told))["accuracy"]
    assert 20 < low < 50 < high < 80


def test_truth_without_a_frame_and_unknown_conventions_are_refused():
    with pytest.raises(EvaluationError, match=r"v: the truth has no frame \(0\).*Leave such videos out"):
        figures(runs(), runs())
    with pytest.raises(EvaluationError, match=r"no convention 'mstcn'.*strict, ms_tcn"):
        figures(runs(("a", 1)), None, "mstcn")


def test_runs_merge_and_bad_runs_are_refused():
    assert runs(("a", 2), ("a", 0), ("b", 0), ("a", 3)) == FrameLabels(("a",), (5,))
    for bad in (("a", -1), ("a", 1.5), ("a", float("nan")), (3, 1), ("a", 10**30), "a"):
        with pytest.raises(EvaluationError, match="must be a class name and a whole number of frames"):
            FrameLabels.from_runs([bad])


@given(st.lists(st.sampled_from(["a", "b", "bb", BACKGROUND]), max_size=40))
def test_every_way_to_read_frames_gives_the_same_runs(names):
    expected = FrameLabels.from_runs((name, 1) for name in names)
    assert FrameLabels.from_frames(names) == expected
    assert FrameLabels.from_frames(np.array(names, dtype=str)) == expected
    assert FrameLabels.from_text("\n".join(names)) == expected
    assert FrameLabels.from_text(" ".join(names) + " ", " ") == expected


def test_files_of_truth_and_of_ms_tcns_results_are_read(tmp_path: Path):
    (tmp_path / "truth.txt").write_text("cut\ncut\npeel\n")
    (tmp_path / "result").write_text("### Frame level recognition: ###\ncut cut peel")
    expected = runs(("cut", 2), ("peel", 1))
    assert read_frame_labels(tmp_path / "truth.txt") == expected == read_frame_labels(tmp_path / "result")
    with pytest.raises(EvaluationError, match="none.txt: cannot be read"):
        read_frame_labels(tmp_path / "none.txt")


def test_events_become_frames_at_the_stated_rate_and_the_last_written_one_wins():
    labels, left_out = FrameLabels.from_events(
        [(0.3, 1.0, "a"), (0.5, 0.6, "b"), (2.0, 1.0, "reversed"), (float("nan"), 3.0, "c")],
        num_frames=12,
        frames_per_s=10,
    )
    assert labels == runs((BACKGROUND, 3), ("a", 2), ("b", 1), ("a", 4), (BACKGROUND, 2))
    assert left_out == 2


def test_ms_tcns_figures_are_reproduced(shared: Path):
    rows = list(run_family(shared / "oracles", "action_segmentation"))
    assert len(rows) >= 40
    assert [row for row in rows if row.state not in ("agreed", "no figure")] == []


def plain_f1_counts(p: list, y: list, overlap: float) -> int:
    """The largest number of one-to-one pairs, by trying every order of the predicted segments."""

    def iou(a, b):
        shared = min(a[2], b[2]) - max(a[1], b[1])
        return shared / (max(a[2], b[2]) - min(a[1], b[1])) if a[0] == b[0] else 0.0

    best = 0
    for order in itertools.permutations(range(len(y)), min(len(p), len(y))):
        for chosen in itertools.combinations(range(len(p)), len(order)):
            best = max(best, sum(iou(p[a], y[b]) >= overlap for a, b in zip(chosen, order, strict=True)))
    return best


def segments(labels: FrameLabels) -> list:
    starts = (0, *labels.ends[:-1])
    return [s for s in zip(labels.names, starts, labels.ends, strict=True) if s[0] != BACKGROUND]


short = st.lists(st.tuples(st.sampled_from(["a", "b", BACKGROUND]), st.integers(1, 9)), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(short, short)
def test_strict_finds_the_largest_number_of_pairs(truth, told):
    y, p = FrameLabels.from_runs(truth), FrameLabels.from_runs(told)
    row = action_segmentation({"v": y}, {"v": p}).statistics[0]
    for overlap, found in zip(OVERLAPS, row[-3:], strict=True):
        assert found == plain_f1_counts(segments(p), segments(y), overlap)


def plain_distance(a: list, b: list) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12))
def test_levenshtein_is_the_textbooks(a, b):
    assert levenshtein(np.array(a, dtype=int), np.array(b, dtype=int)) == plain_distance(a, b)


number = st.floats() | st.integers() | st.just(1e308)
event = st.tuples(number, number, st.text() | st.binary(max_size=8).map(lambda b: b.decode("latin-1")))


@settings(max_examples=60, deadline=None)
@given(st.lists(event, max_size=30), st.sampled_from(list(CONVENTIONS)))
def test_no_prediction_raises_or_leaves_the_range(events, convention):
    told, left_out = FrameLabels.from_events(events, num_frames=50, frames_per_s=2.5)
    assert told.num_frames == 50 and 0 <= left_out <= len(events)
    scores = action_segmentation({"v": runs((BACKGROUND, 20), ("a", 20), ("b", 9))}, {"v": told}, convention=convention)
    assert all(value is not None and 0 <= value <= 100 for value in scores.figures().values())
    assert scores.counts["parsed"] == 1


def test_a_hundred_thousand_events_are_scored():
    rng = np.random.default_rng(0)
    starts = rng.uniform(0, 1000, 100_000)
    events = [(float(s), float(s) + 0.5, f"class {i % 7}") for i, s in enumerate(starts)]
    told, _ = FrameLabels.from_events(events, num_frames=10_000, frames_per_s=10)
    assert 0 < figures(runs(("class 1", 5000), ("class 2", 5000)), told)["accuracy"] < 100
