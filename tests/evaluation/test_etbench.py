from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timeexpert.evaluation import MISSING, EvaluationError
from timeexpert.evaluation.etbench import TASKS, etbench_task

OPTIONS = ["w", "x", "y", "z"]


def score(task, *samples, **options):
    return etbench_task(task, samples, **options).to_json()


def test_tvg_takes_the_first_window_and_strict_keeps_it_reversed():
    sample = {"tgt": [10.0, 20.0], "a": "20.0 - 10.0"}
    assert score("tvg", sample)["r1_0.7"] == 0.0
    assert score("tvg", sample, convention="etbench")["r1_0.7"] == 100.0
    assert score("tem", {"tgt": [[1, 2], [10, 20]], "a": "10 - 20"})["miou"] == 100.0


def test_vhd_asks_whether_the_moment_is_in_any_window_of_any_annotator():
    sample = {"tgt": [[[10, 20]], [[30, 40]]], "a": "at 0:40"}
    assert score("vhd", sample)["f1"] == 100.0
    assert score("vhd", sample, convention="etbench")["f1"] == 0.0  # reads the 0 of the clock


def test_evs_measures_exact_seconds_when_strict_and_counts_what_did_not_parse():
    sample = {"tgt": [[0.0, 1.5]], "a": "0 - 1.0"}
    assert score("evs", sample)["f1"] == pytest.approx(80.0)
    assert score("evs", sample, convention="etbench")["f1"] == 66.667  # 1 of 2 whole seconds
    lost = {"tgt": [[0.0, 1.5]], "a": "no"}
    assert score("evs", sample, lost)["f1"] == pytest.approx(40.0)
    assert score("evs", sample, lost, convention="etbench")["f1"] == 66.667
    overlapping = {"tgt": [[0, 10]], "a": "0 - 6, 4 - 10, 2 - 3"}
    assert score("evs", overlapping)["f1"] == 100.0


def test_a_wrong_letter_has_a_second_chance_in_etbench_only():
    sample = {"p": 0, "o": OPTIONS, "a": "B"}  # no word in common: the first option is the likeliest
    assert score("rvq", sample)["accuracy"] == 0.0
    assert score("rvq", sample, convention="etbench")["accuracy"] == 100.0
    likes_b = lambda text, options: [0.0, 1.0, 0.0, 0.0]  # noqa: E731
    assert score("rvq", sample, convention="etbench", similarity=likes_b)["accuracy"] == 0.0


def test_a_grounded_choice_needs_the_letter_and_the_window():
    right = {"p": 2, "o": OPTIONS, "tgt": [3.0, 10.0], "a": "Best Option: (C) The moment is 3.0 - 10.0."}
    figures = score("gvq", right, {**right, "a": "(B) 3.0 - 10.0"}, {**right, "a": "(C)"}, {**right, "a": MISSING})
    assert (figures["accuracy"], figures["r1_0.7"], figures["miou"]) == (50.0, 25.0, 25.0)
    assert (figures["parsed"], figures["missing"], figures["right_without_window"]) == (2, 1, 1)


def test_dvc_scores_windows_and_words_and_strict_keeps_lost_videos_in_both():
    sample = {"tgt": [[0, 10], [20, 40]], "g": ["cut the onion.", "fry the onion in a pan."]}
    told = {**sample, "a": "0 - 10 seconds, cut the onion. 20 - 40 seconds, fry the onion in a pan."}
    figures = score("dvc", told)
    assert (figures["f1"], figures["rouge_l"]) == pytest.approx((100.0, 100.0))
    assert figures["bleu_4"] == pytest.approx(100.0, abs=1e-3)
    lost = {**sample, "a": "nothing"}
    assert score("dvc", told, lost)["rouge_l"] == pytest.approx(50.0)
    assert score("dvc", told, lost, convention="etbench")["rouge_l"] == 100.0
    assert "METEOR is left out" in figures["notes"][0]


def test_an_unknown_task_and_bad_truth_are_refused():
    with pytest.raises(
        EvaluationError, match="E.T. Bench has no task 'tvgg' with a metric here. Choose one of tvg, epm"
    ):
        etbench_task("tvgg", [])
    with pytest.raises(EvaluationError, match=r"truth of 'v': p \(4\) must be the place of one"):
        etbench_task("rvq", [{"video": "v", "p": 4, "o": OPTIONS, "a": "A"}])
    with pytest.raises(EvaluationError, match=r"truth of 'v': tgt \(\[\]\) must be a list with something in it"):
        etbench_task("tvg", [{"video": "v", "tgt": [], "a": "1 - 2"}])
    with pytest.raises(EvaluationError, match="truth of 'v': 1 captions in g for 2 windows in tgt"):
        etbench_task("dvc", [{"video": "v", "tgt": [[0, 1], [2, 3]], "g": ["x"], "a": "1 - 2"}])
    with pytest.raises(EvaluationError, match="knows no convention 'museg'. Choose one of strict, etbench"):
        etbench_task("tvg", [], convention="museg")


TRUTH = {
    "tvg": {"tgt": [1.0, 5.0]}, "tem": {"tgt": [[1.0, 5.0], [7.0, 7.0]]}, "tal": {"tgt": [[1.0, 5.0]]},
    "vhd": {"tgt": [[1.0, 5.0]]}, "evs": {"tgt": [[1.0, 5.0]]}, "rvq": {"p": 1, "o": OPTIONS},
    "gvq": {"p": 1, "o": OPTIONS, "tgt": [1.0, 5.0]}, "dvc": {"tgt": [[1.0, 5.0]], "g": ["a man"]},
}  # fmt: skip
texts = st.text(st.sampled_from("0123456789.:- ABab()seconds,\u00e9\n"), max_size=30) | st.text(max_size=20)


@settings(max_examples=40)
@given(st.lists(st.one_of(st.none(), st.just(MISSING), texts), min_size=1, max_size=3))
def test_no_answer_breaks_a_figure(answers):
    assert TRUTH.keys() <= TASKS.keys()
    for task, truth in TRUTH.items():
        for convention in ("strict", "etbench"):
            figures = score(task, *({**truth, "a": a} for a in answers), convention=convention)
            shares = [v for k, v in figures.items() if isinstance(v, float) and k != "cider"]
            assert all(-1e-9 <= value <= 100.0 + 1e-9 for value in shares), (task, figures)
            assert figures["questions"] == len(answers)


@pytest.mark.parametrize("task", TASKS)
def test_without_samples_there_is_no_figure(task):
    figures = etbench_task(task, []).to_json()
    assert figures["questions"] == 0
    assert not any(isinstance(value, float) for value in figures.values())
