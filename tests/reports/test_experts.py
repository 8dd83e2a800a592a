from __future__ import annotations

import argparse
import json

import pytest

from timeexpert.commands import experts_report as command
from timeexpert.reports import ReportError
from timeexpert.reports.experts import LayerUse, expert_report, experts_page
from timeexpert.reports.run_files import MAX_EXPERT_RECORDS

from .fake_run import experts_row, make_run, train_row, write_lines


def use(load: list[float], active: list[bool] | None = None, **rates: list[float] | None) -> LayerUse:
    return LayerUse(0, active or [True] * len(load), load, dict(rates), 2.0, 0.0)


def run_command(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(argv)))


def test_utilization_is_1_for_a_fair_share_and_0_for_a_dead_expert():
    layer = use([0.5, 0.25, 0.25, 0.0])
    assert layer.utilization == [2.0, 1.0, 1.0, 0.0]
    assert layer.dead == [3]


def test_a_free_slot_is_neither_used_nor_dead():
    layer = use([0.5, 0.5, 0.0], [True, True, False])
    assert layer.utilization == [1.0, 1.0, None]
    assert layer.dead == []


def test_entropy_is_1_for_even_load_and_0_when_one_expert_takes_all():
    assert use([0.25] * 4).entropy == pytest.approx(1.0)
    assert use([1.0, 0.0]).entropy == 0.0
    assert use([0.5, 0.5, 0.0, 0.0]).entropy == pytest.approx(0.5)


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
    assert [edit["action"] for edit in report["edits"]] == ["add"]
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
        "metrics.jsonl:3: kind ('gossip') is none of train, experts, eval, expert_edit.",
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
    assert "Only one record so far" in experts_page(report)


def test_the_page_escapes_what_records_say(tmp_path):
    edit = {
        "kind": "expert_edit",
        "stage": "<i>",
        "layer": 0,
        "expert": 1,
        "action": "add",
        "reason": "<script>x</script>",
    }
    write_lines(tmp_path / "metrics.jsonl", [experts_row("<i>", 0), edit])
    page = experts_page(expert_report(tmp_path))
    assert "<script" not in page and "<i>" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page


def test_the_command_prints_tables_and_writes_a_page(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    assert run_command(str(run), "--html", str(tmp_path / "out.html")) == 0
    printed = capsys.readouterr().out
    assert "stage sft, step 180" in printed and "7 / 8" in printed and f"wrote {tmp_path}" in printed
    page = (tmp_path / "out.html").read_text()
    assert page.startswith("<!doctype html>") and "Experts of run" in page


def test_the_terminal_is_safe_from_what_records_say(tmp_path, capsys):
    edit = {"kind": "expert_edit", "stage": "a\x1b[2J", "action": "[bold]add", "reason": "\ud800"}
    write_lines(tmp_path / "metrics.jsonl", [experts_row("a\x1b[2J", 0), edit])
    for flags in ((), ("--json",), ("--html", str(tmp_path / "x.html"))):
        assert run_command(str(tmp_path), *flags) == 0
        assert "\x1b[2J" not in capsys.readouterr().out


def test_the_command_prints_one_json_object(tmp_path, capsys):
    assert run_command(str(make_run(tmp_path / "run")), "--json", "--stage", "moe_pretraining") == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "moe_pretraining"


def test_an_html_file_that_cannot_be_written_is_refused_by_name(tmp_path):
    with pytest.raises(ReportError, match=r"--html .*nowhere.*cannot be written \(No such file"):
        run_command(str(make_run(tmp_path)), "--html", str(tmp_path / "nowhere" / "x.html"))
