"""Rewards for segments: MUSEG's own figures, bounds, switches, and what cheating earns."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.tiny import ROOT
from timeexpert.evaluation.errors import EvaluationError
from timeexpert.evaluation.oracle import run_family
from timeexpert.evaluation.segment_rewards import (
    CONVENTIONS,
    REWARDS,
    answer_of_events,
    answer_of_text,
    reward_convention,
)

STRICT, COMPAT = CONVENTIONS["strict"], CONVENTIONS["compat"]


def reward(name, text, truth, rules=STRICT):
    return REWARDS[name](answer_of_text(text, rules), truth, rules)


def answer(*segments, thinking=""):
    return f"<think>{thinking}</think><answer>{' '.join(f'{a}-{b}' for a, b in segments)}</answer>"


def test_compat_rewards_equal_musegs_on_every_case(shared: Path) -> None:
    rows = list(run_family(shared / "oracles", "museg_rewards"))
    assert {row.reference for row in rows} == {
        "format",
        "format_n_timestamp",
        "global_matching",
        "local_matching",
        "segment_matching",
    }
    assert [(row.reference, row.state, row.detail) for row in rows if row.state != "agreed"] == []
    assert max(row.largest for row in rows) < 1e-9


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (answer((1, 2)), 1.0),
        (" <think>a\nb</think>\n<answer> 1.5-2 </answer>\n", 1.0),
        (answer((1, 2)) + " done", 0.0),
        ("<answer>1-2</answer>", 0.0),
        ("<think>a</think><answer>1-2</answer><answer>3-4</answer>", 0.0),
        ("<think>a</think><answer>1 to 2</answer>", 0.2),
        ("<think>a</think><answer>1-2-3</answer>", 0.2),
        ("<think>a</think><answer>2-1</answer>", 0.2),
        ("<think>a</think><answer>1-nan</answer>", 0.2),
        ("<think>a</think><answer></answer>", 0.2),
    ],
)
def test_the_form_of_an_answer(text, form):
    assert reward("format", text, [(1, 2)]) == form


def test_compat_gives_an_empty_answer_the_whole_form():
    assert reward("format", answer(), [(1, 2)], COMPAT) == 1.0


@pytest.mark.parametrize("item", ["1-nan", "1-inf", "nan-2", "-1e999"])
def test_numbers_that_are_not_finite_are_no_segment_and_match_nothing(item):
    text = f"<think>{item}</think><answer>{item}</answer>"
    assert reward("format", text, [(1, 2)]) == 0.2
    assert reward("segment_matching", text, [(1, 2)]) == reward("segment_matching", text, [(1, 2)], COMPAT) == 0.0


def test_compat_takes_what_float_reads_for_an_item_as_musegs_code_does():
    assert reward("format", "<think></think><answer>1-nan</answer>", [(1, 2)], COMPAT) == 1.0


@pytest.mark.parametrize(
    ("thinking", "named"),
    [("from 1.0 to 2.5", 1.0), ("from 1 to 2.50", 1.0), ("from 1.0", 0.0), ("1 2.5 " * 11, 0.0), ("110 2x5", 0.0)],
)
def test_timestamps_are_earned_by_naming_each_boundary_up_to_ten_times(thinking, named):
    text = answer((1.0, 2.5), thinking=thinking)
    assert reward("timestamps", text, [(1, 2)]) == named
    assert reward("format_timestamps", text, [(1, 2)]) == (1.0 if named else 0.6)


def test_timestamps_of_an_answer_without_thinking_are_refused():
    events = answer_of_events([(1.0, 2.0)], True, STRICT)
    assert REWARDS["format"](events, [(1, 2)], STRICT) == 1.0
    with pytest.raises(ValueError, match="this family of models writes none"):
        REWARDS["timestamps"](events, [(1, 2)], STRICT)


def test_events_that_did_not_parse_earn_nothing():
    broken = answer_of_events([(1.0, 2.0)], False, STRICT)
    assert [REWARDS[name](broken, [(1, 2)], STRICT) for name in ("format", "segment_matching")] == [0.0, 0.0]


def test_events_of_which_one_has_no_times_are_no_segments():
    mixed = answer_of_events(None, True, STRICT)
    assert [REWARDS[name](mixed, [(1, 2)], STRICT) for name in ("format", "segment_matching")] == [0.2, 0.0]


def test_global_matching_is_f1_or_iou_of_seconds():
    text, truth = answer((0, 4), (3, 6)), [(2, 8)]  # 6 s told, 6 s true, 4 s of them both
    assert reward("global_matching", text, truth) == pytest.approx(2 / 3)
    assert reward("global_matching", text, truth, reward_convention("strict", overlap="iou")) == pytest.approx(4 / 8)


def test_truth_that_overlaps_is_merged_so_that_the_exact_answer_earns_one():
    truth = [(0, 6), (4, 10)]
    assert reward("global_matching", answer(*truth), truth) == 1.0
    assert reward("global_matching", answer(*truth), truth, COMPAT) > 1.0


def test_local_matching_pairs_in_order_or_at_best():
    truth = [(0, 4), (6, 10)]
    text = answer((6, 10), (0, 4))
    in_order = (1 - 2 / 10) / 2  # of each pair: IoU 0, a gap of 2 s in a hull of 10 s
    assert reward("local_matching", text, truth) == pytest.approx(in_order)
    assert reward("local_matching", text, truth, reward_convention("strict", local="optimal")) == 1.0
    assert reward("local_matching", answer((0, 4)), truth) == 0.5  # the second has no partner
    best = reward_convention("strict", local="optimal")
    assert reward("local_matching", answer((6, 10)), truth, best) == 0.5


def test_an_answer_beside_the_truth_earns_more_the_nearer_it_is():
    earned = [reward("local_matching", answer((t, t + 4)), [(0, 4)]) for t in (4, 6, 20, 100)]
    assert all(near > far > 0 for near, far in pairwise(earned))


@pytest.mark.parametrize("local", ["sequential", "optimal"])
@pytest.mark.parametrize("overlap", ["f1", "iou"])
def test_no_reward_leaves_its_bounds_and_only_the_truth_earns_all(local, overlap):
    rules, rng = reward_convention("strict", local=local, overlap=overlap), np.random.default_rng(0)
    for _ in range(200):
        truth, told = (np.sort(rng.integers(0, 12, (rng.integers(1, 5), 2)) + [0, 0.5], axis=1) for _ in range(2))
        events = answer_of_events([tuple(s) for s in told.tolist()], True, rules)
        for name in ("global_matching", "local_matching"):
            assert 0 <= REWARDS[name](events, truth.tolist(), rules) <= 1 + 1e-12
        exact = answer_of_events([tuple(s) for s in truth.tolist()], True, rules)
        assert REWARDS["segment_matching"](exact, truth.tolist(), rules) == pytest.approx(2.0)


def test_another_convention_is_refused_by_its_name():
    with pytest.raises(EvaluationError, match="segment rewards knows no convention 'loose'. Choose one of strict, com"):
        reward_convention("loose")


@pytest.fixture
def cheats(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return import_module("reward_table")


TRUE_PARTS = {"a right segment once", "the right segments, last first"}  # no cheats: of the truth, and nothing else


@pytest.mark.parametrize(
    ("column", "documented"),
    [
        ("strict", set()),
        ("strict, iou", set()),
        ("strict, optimal", set()),
        # a repeated segment counts once, and the thinking not at all
        (
            "strict, format and global matching",
            {"a right segment ten times", "the honest guess, every tenth of a second listed"},
        ),
    ],
)
def test_every_cheat_earns_less_than_an_honest_wrong_guess_or_is_documented(cheats, column, documented):
    right, guess, *others = cheats.CASES
    earned = {name: cheats.total(text, column) for name, text in cheats.CASES.items()}
    assert earned[right] == pytest.approx(
        sum({"format_timestamps": 1, "segment_matching": 2}.get(n, 1) for n in cheats.COLUMNS[column][0])
    )
    assert {name for name in others if earned[name] >= earned[guess]} - TRUE_PARTS == documented
    assert earned["a right segment ten times"] <= earned["a right segment once"]


def test_the_table_of_the_docs_is_what_the_rewards_give(cheats):
    assert cheats.table() in (ROOT / "docs" / "rl.md").read_text(encoding="utf-8")
