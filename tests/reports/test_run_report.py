from __future__ import annotations

import json
from pathlib import Path

import pytest

from timeexpert.reports import ReportError
from timeexpert.reports.charts import line_chart
from timeexpert.reports.run_report import write_report

from .fake_run import eval_row, example, experts_row, make_run, train_row, write_lines
from .pages import is_alone, tags_of, text_of


def parse(path: Path) -> tuple[str, list[str]]:
    page = path.read_text(encoding="utf-8")
    return page, tags_of(page)


def test_the_page_of_a_finished_run_shows_results_controls_losses_experts_and_examples(tmp_path):
    run = make_run(tmp_path / "run")
    out = write_report(run, [example()])
    page, tags = parse(out)
    text = text_of(page)
    assert out == run / "report.html"
    assert "after sft 85.0 75.0 37.5 60.0" in text
    assert "control: noise frames 14.0 4.0 2.0 3.2" in text
    assert "moe_pretraining: loss" in text and "total text time score" in text
    assert "Experts added and removed" in text and "4.1 % of tokens reached no expert" in text
    assert "sft 12 3 1 1" in text and "a time list is not closed 3" in text
    assert "time" in text and "3.0 min" in text and "1.9 GiB" in text
    assert tags.count("img") == 1 and 'class="note"' not in page


def test_the_page_needs_nothing_from_elsewhere_and_runs_no_script(tmp_path):
    page, _ = parse(write_report(make_run(tmp_path), [example()]))
    assert is_alone(page) and "prefers-color-scheme: dark" in page


def test_a_stage_has_the_steps_that_it_was_trained_not_those_that_were_recorded(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [train_row("sft", step, step) for step in (1, 10, 20)])
    assert "samples in a step skipped sft 20 " in text_of(write_report(tmp_path).read_text())


def test_text_from_data_and_models_is_escaped(tmp_path):
    evil = '"><script>alert(1)</script>'
    run = make_run(tmp_path)
    write_lines(run / "metrics.jsonl", [train_row(evil, 0, 0), experts_row(evil, 0), eval_row(evil, 1, 1.0, evil)])
    page, tags = parse(write_report(run, [example(evil, evil)]))
    assert "script" not in tags
    assert "&lt;script&gt;" in page


def test_summary_figures_take_precedence_and_are_enough(tmp_path):
    (tmp_path / "summary.json").write_text(
        json.dumps(
            {"stages": [{"name": "sft", "r1_0.5": 61.0, "miou": 50.5}], "controls": {"noise_frames": {"miou": 3.0}}}
        )
    )
    text = text_of(write_report(tmp_path).read_text())
    assert "after sft 61.0 50.5" in text and "control: noise frames \u2013 3.0" in text


def test_a_run_killed_while_writing_gives_a_report_that_says_what_is_missing(tmp_path):
    rows = [train_row("sft", 0, 0), train_row("sft", 1, 1, loss=float("nan")), train_row("sft", 2, 2)]
    write_lines(tmp_path / "metrics.jsonl", rows, tail='{"kind": "train", "stage": "sf')
    page, _ = parse(write_report(tmp_path))
    text = text_of(page)
    assert "metrics.jsonl:4: the line is cut off (the writer was stopped) and is left out." in text
    assert "sft: the loss is not a finite number at 1 of 3 steps, first at 1." in text
    for missing in (
        "no evaluation has been recorded",
        "no expert statistics",
        "no predictions",
        "no held-out examples",
    ):
        assert missing in text


@pytest.mark.parametrize("content", [None, "", "\n", "{}\n", "[1]\n", "\x00\xff\n", "[" * 100_000])
def test_empty_and_broken_metrics_still_give_a_page(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content, encoding="latin-1")
    page, _ = parse(write_report(tmp_path))
    assert "metrics.jsonl" in text_of(page)


@pytest.mark.parametrize(
    "summary", ["{", "[]", '{"stages": 3, "controls": [], "seconds": {"a": "x"}, "parse_rate": "no"}']
)
def test_a_broken_summary_still_gives_a_page(tmp_path, summary):
    make_run(tmp_path)
    (tmp_path / "summary.json").write_text(summary)
    assert "after sft" in text_of(write_report(tmp_path).read_text())


def test_records_with_wrong_types_still_give_a_page(tmp_path):
    rows = [
        {"kind": "train"},
        train_row("sft", 1, 1, loss="x", lr=None, grad_norm=10**400, tokens_per_s=[]),
        train_row("sft", 2, 2) | {"step": True},
        {"kind": "eval", "stage": 4, "control": 7, "moment_retrieval": [], "parse_rate": {}},
        {"kind": "experts", "layers": "no"},
        {"kind": "expert_edit", "layer": []},
    ]
    write_lines(tmp_path / "metrics.jsonl", rows)
    assert "no readable expert records" in text_of(write_report(tmp_path).read_text())


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ReportError, match="absent: no such run folder. Give the folder that training wrote"):
        write_report(tmp_path / "absent")


def test_a_second_report_replaces_the_first(tmp_path):
    run = make_run(tmp_path)
    first = write_report(run).read_text()
    write_lines(run / "metrics.jsonl", [train_row("rl", 0, 0)])
    assert write_report(run).read_text() != first
    assert not list(run.glob("*.part"))


def test_a_line_chart_breaks_where_a_value_is_missing():
    chart = line_chart("loss", {"total": [(0, 1.0), (1, 2.0), (2, None), (3, 2.0), (4, 1.0)]})
    assert chart.count("<polyline") == 2


def test_a_line_chart_of_many_points_stays_small():
    chart = line_chart("loss", {"total": [(i, float(i % 7)) for i in range(100_000)]})
    assert len(chart) < 10_000


def test_a_line_chart_of_nothing_or_of_one_constant_point_is_drawn():
    assert "no values yet" in line_chart("loss", {"total": [(0, None)]})
    assert "<circle" in line_chart("loss", {"total": [(5, 0.0)]})
