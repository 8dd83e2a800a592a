"""Rewards for segments: MUSEG's own figures, bounds, switches, and what cheating earns."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.tiny import ROOT
from timeexpert.data.records import Sample, write_samples
from timeexpert.evaluation.errors import EvaluationError
from timeexpert.evaluation.oracle import run_family
from timeexpert.evaluation.segment_rewards import (
    CONVENTIONS,
    REWARDS,
    answer_of_events,
    answer_of_text,
    reward_convention,
)
from timeexpert.tokenization import Event, EventSequence

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


# The cheats that earn as much as an honest wrong guess, or more, by video and rewards; the others earn less.
NO_THINKING = "the honest guess, every tenth of a second listed"  # which those two rewards do not read
COVERING = {
    "one segment: the whole video",
    "6,000 slivers of 0.01 s that cover the video",
    "the whole video, every tenth of a second listed",
}
TEN_WRONG, TEN_RIGHT = "a wrong segment ten times", "a right segment ten times"
COARSE = "strict, format and global matching"
PAID = {
    ("two segments of 8 s", COARSE): {TEN_RIGHT, NO_THINKING},
    ("two segments of 15 s", COARSE): {*COVERING, TEN_RIGHT, NO_THINKING},
    ("one segment of 30 s", "strict"): {"one segment: the whole video"},
    ("one segment of 30 s", "strict, iou"): {"one segment: the whole video", TEN_RIGHT},
    ("one segment of 30 s", "strict, optimal"): {"one segment: the whole video"},
    ("one segment of 30 s", COARSE): {*COVERING, TEN_WRONG, TEN_RIGHT, NO_THINKING},
}


@pytest.mark.parametrize("column", ["strict", "strict, iou", "strict, optimal", COARSE])
@pytest.mark.parametrize("name", ["two segments of 8 s", "two segments of 15 s", "one segment of 30 s"])
def test_every_cheat_earns_less_than_an_honest_wrong_guess_or_is_documented(cheats, name, column):
    video = cheats.VIDEOS[name]
    earned = cheats.earned(video)
    assert earned[cheats.RIGHT][column] == pytest.approx(2.0 if column == COARSE else 3.0)
    assert cheats.paid_cheats(video, column) == PAID.get((name, column), set())
    assert earned[TEN_RIGHT][column] <= earned["a right segment once"][column]


def question(name, *segments):
    truth = EventSequence(tuple(Event(*segment) for segment in segments))
    return Sample(id=name, video="v.mp4", task="moment_retrieval", prompt="When?", events=truth, duration_s=60.0)


@pytest.mark.parametrize(("segments", "rewards"), [(1, "COARSE"), (1, "FINE"), (2, "COARSE")])
def test_the_whole_video_pays_where_the_truth_covers_a_third_of_it_or_more(cheats, segments, rewards):
    for covered_s, pays in ((19.0, False), (21.0, True)):
        asked = question("q", *((30.0 * i, 30.0 * i + covered_s / segments) for i in range(segments)))
        assert cheats.whole_video_pays(asked, getattr(cheats, rewards)) == pays


def test_questions_that_pay_for_the_whole_video_are_counted(cheats, tmp_path, capsys):
    short, long, several = (10.0, 16.0), (10.0, 40.0), ((0.0, 15.0), (30.0, 45.0))
    file = tmp_path / "samples.jsonl"
    write_samples(file, [question("a", short), question("b", long), question("c", *several)])
    assert cheats.main([str(file)]) == 0
    assert capsys.readouterr().out.endswith("| 3 | 37% | 2 (67%) | 1 (33%) |\n")
    assert cheats.main([str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_the_tables_of_the_docs_are_what_the_rewards_give(cheats):
    docs = (ROOT / "docs" / "rl.md").read_text(encoding="utf-8")
    assert [name for name, table in cheats.tables().items() if table not in docs] == []
