from __future__ import annotations

import json

import pytest

from timeexpert.reports import ReportError
from timeexpert.reports.experts import LayerUse, expert_report
from timeexpert.reports.run_files import MAX_EXPERT_RECORDS

from .fake_run import experts_row, make_run, train_row, write_lines


def use(load: list[float], active: list[bool] | None = None, **rates: list[float] | None) -> LayerUse:
    return LayerUse(0, active or [True] * len(load), load, dict(rates), 2.0, 0.0)


def test_utilization_is_1_for_a_fair_share_and_0_for_a_dead_expert():
    layer = use([0.5, 0.25, 0.25, 0.0])
    assert layer.utilization == [2.0, 1.0, 1.0, 0.0]
    assert layer.dead == [3]


def test_an_expert_is_dead_below_a_hundredth_of_its_fair_share():
    assert use([0.0049, 0.9951]).dead == [0]
    assert use([0.005, 0.995]).dead == []


def test_a_free_slot_is_neither_used_nor_dead():
    layer = use([0.5, 0.5, 0.0], [True, True, False])
    assert layer.utilization == [1.0, 1.0, None]
    assert layer.dead == []


def test_entropy_is_1_for_even_load_and_0_when_one_expert_takes_all():
    assert use([0.25] * 4).entropy == pytest.approx(1.0)
    assert use([1.0, 0.0]).entropy == 0.0
    assert use([0.5, 0.5, 0.0, 0.0]).entropy == pytest.approx(0.5)


def test_the_entropy_of_a_type_is_that_of_its_rates_over_active_experts():
    layer = use([0.25] * 4, [True, True, True, False], time=[0.3, 0.3, 0.3, 0.0], text=[0.9, 0.0, 0.0, 0.0], score=None)
    assert layer.entropy_of("time") == pytest.approx(1.0)
    assert layer.entropy_of("text") == 0.0
    assert layer.entropy_of("score") is None
    assert use([1.0]).entropy == 1.0  # one expert: nothing can be uneven


def test_mean_k_of_a_type_is_the_sum_of_its_rates():
    """A token that used two experts is counted in two rates."""
    layer = use([0.5, 0.5], time=[1.0, 0.5], score=None)
    assert layer.mean_k_of("time") == 1.5
    assert layer.mean_k_of("score") is None


def test_experts_are_ranked_by_the_share_of_a_types_tokens_they_get():
    layer = use([0.4, 0.3, 0.3], time=[0.1, 0.9, 0.2], score=None)
    assert layer.ranked("time") == [1, 2, 0]
    assert layer.ranked("score") == []
    assert layer.relative_rates("time") == pytest.approx([0.25, 2.25, 0.5])


def test_the_report_names_the_last_record_dead_experts_and_edits(tmp_path):
    report = expert_report(make_run(tmp_path / "run")).to_json()
    assert (report["run"], report["stage"], report["global_step"]) == ("run", "sft", 180)
    assert [(layer["active"], layer["slots"], layer["dead"]) for layer in report["layers"]] == [(7, 8, [5])] * 2
    assert report["layers"][0]["utilization"][7] is None
    top = report["layers"][0]["top"]["time"]
    assert len(top) == 3 and top[0]["rate"] >= top[1]["rate"] >= top[2]["rate"] > 0
    assert report["layers"][0]["bottom"]["time"][0] == {"expert": 5, "rate": 0.0}
    assert [edit["action"] for edit in report["edits"]] == ["remove", "add"]
    assert [h["layers"][0]["active"] for h in report["history"]] == [6, 6, 6, 7, 7] * 2
    json.dumps(report, allow_nan=False)


def test_one_stage_can_be_chosen_and_a_wrong_name_is_answered_with_the_right_ones(tmp_path):
    run = make_run(tmp_path)
    assert expert_report(run, "moe_pretraining").last.stage == "moe_pretraining"
    assert expert_report(run, "moe_pretraining").edits == []
    with pytest.raises(ReportError, match=r"stage 'sfd' has no expert records. .*: moe_pretraining, sft"):
        expert_report(run, "sfd")


def test_runs_without_expert_records_are_refused_with_the_reason(tmp_path):
    with pytest.raises(ReportError, match="no such run folder"):
        expert_report(tmp_path / "absent")
    with pytest.raises(ReportError, match="no readable expert records.*there is no metrics.jsonl yet"):
        expert_report(tmp_path)


def test_a_malformed_record_is_left_out_and_named(tmp_path):
    bad = experts_row("sft", 20)
    bad["layers"][1]["load"] = [1.0, float("nan")]
    write_lines(tmp_path / "metrics.jsonl", [experts_row("sft", 0), bad, {"kind": "gossip"}, train_row("sft", 1, 1)])
    report = expert_report(tmp_path)
    assert len(report.snapshots) == 1
    assert report.notes == [
        "metrics.jsonl:3: kind ('gossip') is none of train, experts, eval, expert_edit, nonfinite, drawn.",
        "expert record of step 20 is left out: layers[layer=1]: load must hold 8 finite shares, one per expert slot.",
    ]


def test_of_very_many_records_some_are_used_and_the_last_of_each_stage_always(tmp_path):
    rows = [experts_row("a", i, layers=1) for i in range(MAX_EXPERT_RECORDS - 7)]
    rows += [experts_row("b", i, layers=1) for i in range(MAX_EXPERT_RECORDS)]
    write_lines(tmp_path / "metrics.jsonl", rows)
    report = expert_report(tmp_path)
    assert len(report.snapshots) <= MAX_EXPERT_RECORDS
    assert max(s.step for s in report.snapshots if s.stage == "a") == MAX_EXPERT_RECORDS - 8
    assert (report.last.stage, report.last.step) == ("b", MAX_EXPERT_RECORDS - 1)
    assert "evenly chosen" in report.notes[0]


def test_a_run_of_zero_load_shows_every_expert_dead(tmp_path):
    row = experts_row("rl", 0, layers=1)
    row["layers"][0] |= {"load": [0.0] * 8, "rates": [[0.0] * 8] * 6, "mean_k": None, "fallback": None}
    write_lines(tmp_path / "metrics.jsonl", [row])
    report = expert_report(tmp_path)
    assert report.to_json()["layers"][0]["dead"] == [0, 1, 2, 3, 4, 5]


def test_tokens_and_fallback_by_type_are_read_where_records_have_them(tmp_path):
    row = experts_row("sft", 0, layers=1)
    row["layers"][0] |= {"tokens": [4, 0, 9, 9, 9, 9], "fallback_by_type": [0.25, 0.0, None, 0.5, 0.0, 0.0]}
    old = experts_row("sft", 20, layers=1)
    for key in ("tokens", "fallback_by_type", "flipped"):
        del old["layers"][0][key]
    write_lines(tmp_path / "metrics.jsonl", [row, old])
    new, before = (s.layers[0] for s in expert_report(tmp_path).snapshots)
    assert new.tokens["time"] == 9 and new.rates["sync"] is None  # no sync token was seen, whatever the rates say
    assert new.fallback_by_type == {"text": 0.25, "score": 0.5, "vision": 0.0, "frame_time": 0.0}
    assert (before.tokens, before.fallback_by_type, before.flipped) == ({}, {}, None)
    assert before.rates["sync"] is not None


def test_tokens_that_no_expert_may_take_are_seen_all_the_same(tmp_path):
    row = experts_row("sft", 0, layers=1)  # fallback: skip leaves tokens to the shared experts
    row["layers"][0]["rates"][2] = [0.0] * 8
    write_lines(tmp_path / "metrics.jsonl", [row])
    layer = expert_report(tmp_path).last.layers[0]
    assert layer.mean_k_of("time") == 0.0 and layer.entropy_of("time") == 0.0


def test_figures_by_type_of_another_length_are_refused_by_name(tmp_path):
    row = experts_row("sft", 0, layers=1)
    row["layers"][0]["fallback_by_type"] = [0.1]
    write_lines(tmp_path / "metrics.jsonl", [row])
    with pytest.raises(ReportError, match=r"layers\[layer=0\]: fallback_by_type must hold one number \(or null\)"):
        expert_report(tmp_path)


def test_a_report_up_to_a_step_knows_nothing_of_later_ones(tmp_path):
    report = expert_report(make_run(tmp_path), up_to_step=120)
    assert report.last.global_step == 120 and report.edits == []
    with pytest.raises(ReportError, match="no readable expert records up to step -1"):
        expert_report(tmp_path, up_to_step=-1)


def test_figures_of_a_snapshot_are_means_over_its_layers(tmp_path):
    row = experts_row("sft", 0, layers=2)
    row["layers"][0] |= {"mean_k": 1.0, "fallback": 0.2}
    row["layers"][1] |= {"mean_k": 2.0, "fallback": None}
    write_lines(tmp_path / "metrics.jsonl", [row])
    last = expert_report(tmp_path).last
    assert (last.mean_k, last.fallback) == (1.5, 0.2)
    assert last.mean_k_of("time") == pytest.approx(2.1, abs=1e-4)
