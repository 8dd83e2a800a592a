from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from timeexpert.reports import ReportError
from timeexpert.reports.compare import Comparison, Pair, compare
from timeexpert.reports.compare_page import compare_page

from .fake_run import TYPES, eval_row, experts_row, make_run, write_lines
from .pages import is_alone, tags_of, text_of
from .weights import expert_tensors, write_model


def run_of(folder: Path, rows: list[dict[str, Any]], summary: dict[str, Any] | None = None) -> Path:
    write_lines(folder / "metrics.jsonl", rows)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def by_hand(layers: int = 2, types: tuple[str, ...] = ("text", "time"), **changes: Any) -> dict[str, Any]:
    """Two experts; the first layer uses both for half of the tokens, the second only expert 0."""
    both = {"rates": [[1.0, 0.5]] * len(types), "load": [2 / 3, 1 / 3], "mean_k": 1.5, "fallback": 0.2}
    one = {"rates": [[1.0, 0.0]] * len(types), "load": [1.0, 0.0], "mean_k": 1.0, "fallback": 0.0}
    made = [{"layer": i, "active": [True, True]} | (one if i else both) for i in range(layers)]
    row = {"kind": "experts", "stage": "sft", "step": 9, "global_step": 9, "token_types": list(types), "layers": made}
    return row | changes


def values(pairs: list[Pair]) -> dict[str, tuple[float | None, float | None]]:
    return {pair.name: (pair.a, pair.b) for pair in pairs}


@pytest.fixture
def pair(tmp_path: Path) -> Comparison:
    lazy = by_hand()
    lazy["layers"][0] |= {"mean_k": 1.0, "rates": [[1.0, 0.0], [0.5, 0.5]], "load": [0.75, 0.25], "fallback": 0.3}
    edit = {"kind": "expert_edit", "stage": "sft", "global_step": 5, "layer": 0, "expert": 1, "action": "add"}
    a = run_of(tmp_path / "a", [by_hand(), eval_row("sft", 9, 40.0)])
    b = run_of(tmp_path / "b", [edit, lazy, eval_row("sft", 9, 50.0)])
    return compare(a, b)


def test_overall_figures_and_their_differences(pair: Comparison) -> None:
    overall = values(pair.overall())
    assert overall["R@1 IoU 0.5"] == (40.0, 50.0)
    assert overall["HIT@1"] == (20.0, 25.0)
    assert overall["experts per token"] == (1.25, 1.0)
    assert overall["tokens without expert"] == (0.1, 0.15)
    assert overall["active experts"] == (4.0, 4.0)
    assert overall["dead experts"] == (1.0, 1.0)  # expert 1 of layer 1
    assert overall["edits: add"] == (0.0, 1.0)
    assert "edits: remove" not in overall and "decoder FLOPs per token" not in overall
    texts = {p.name: p.texts() for p in pair.overall()}
    assert texts["experts per token"] == ["1.25", "1.00", "-0.25"]
    assert texts["tokens without expert"] == ["10.0 %", "15.0 %", "+5.0 pp"]
    assert texts["R@1 IoU 0.5"] == ["40.0", "50.0", "+10.0"]


def test_figures_by_layer_and_by_token_type(pair: Comparison) -> None:
    layers = {layer: values(pairs) for layer, pairs in pair.by_layer().items()}
    assert layers[0]["experts per token"] == (1.5, 1.0) and layers[1]["experts per token"] == (1.0, 1.0)
    assert layers[1]["dead experts"] == (1.0, 1.0) and layers[0]["dead experts"] == (0.0, 0.0)
    types = {t: values(pairs) for t, pairs in pair.by_type().items()}
    assert types["text"]["experts per token"] == (1.25, 1.0)
    assert types["time"]["evenness of use"][1] == pytest.approx(0.5)  # even in layer 0, one expert in layer 1
    assert types["time"]["tokens without expert"] == (None, None)  # these records do not say
    cells = {layer: values(pairs) for layer, pairs in pair.by_layer_and_type().items()}
    assert cells[0] == {"text": (1.5, 1.0), "time": (1.5, 1.0)}


def test_a_run_against_itself_differs_in_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_model(run / "models" / "sft", expert_tensors(2, 8))
    same = compare(run, run)
    pairs = [*same.overall(), *(p for group in same.by_layer().values() for p in group)]
    assert {p.difference for p in pairs} <= {0.0, None}
    assert same.settings() == [] and same.notes == []
    assert same.names == ("A: " + tmp_path.name, "B: " + tmp_path.name)


def test_layers_and_types_of_one_run_alone_are_left_out_and_named(tmp_path: Path) -> None:
    a = run_of(tmp_path / "a", [by_hand(layers=3)])
    b = run_of(tmp_path / "b", [by_hand(types=("text", "score"))])
    found = compare(a, b)
    assert found.layers == [0, 1] and found.types == ["text"]
    assert "layers of A alone, left out of the tables by layers: 2." in found.notes
    assert "token types of A alone, left out of the tables by token types: time." in found.notes
    assert "token types of B alone, left out of the tables by token types: score." in found.notes
    assert list(found.by_layer()) == [0, 1] and list(found.by_type()) == ["text"]


def test_runs_without_a_common_layer_are_refused(tmp_path: Path) -> None:
    other = by_hand(layers=1)
    other["layers"][0]["layer"] = 7
    a, b = run_of(tmp_path / "a", [by_hand()]), run_of(tmp_path / "b", [other])
    with pytest.raises(ReportError, match=r"a and .*b have no layer in common: 0, 1 against 7. Compare runs"):
        compare(a, b)


def test_runs_without_a_common_type_are_compared_by_layer(tmp_path: Path) -> None:
    a = run_of(tmp_path / "a", [by_hand(types=("text",))])
    b = run_of(tmp_path / "b", [by_hand(types=("score",))])
    found = compare(a, b)
    assert found.types == [] and found.by_type() == {} and len(found.by_layer()) == 2
    assert is_alone(compare_page(found))


def test_stages_evaluations_and_questions_that_do_not_match_are_said(tmp_path: Path) -> None:
    stages = [{"name": "sft", "r1_0.5": 10.0, "questions": 70}]
    a = run_of(tmp_path / "a", [by_hand()], {"stages": stages})
    b = run_of(tmp_path / "b", [by_hand()], {"stages": [stages[0] | {"questions": 350}]})
    assert any("asked 70 and 350 questions: their figures are of different data" in n for n in compare(a, b).notes)
    c = run_of(tmp_path / "c", [by_hand(stage="rl")])
    notes = compare(a, c).notes
    assert "the last records are of different stages, sft and rl; --stage compares one." in notes
    assert "B: no evaluation after stage rl is recorded." in notes
    with pytest.raises(ReportError, match="c: stage 'sft' has no expert records. Stages with records: rl."):
        compare(a, c, "sft")


def test_settings_that_differ_are_listed_and_the_cost_is_compared(tmp_path: Path) -> None:
    a, b = (run_of(tmp_path / name, [experts_row("sft", 0)]) for name in "ab")
    write_model(a / "models" / "sft", expert_tensors(2, 8))
    write_model(b / "models" / "sft", expert_tensors(2, 8), alpha=0.5, adaptive={"tau_min": 0.25})
    found = compare(a, b)
    assert found.settings() == [("adaptive.tau_min", "0.001", "0.25"), ("alpha", "0.01", "0.5")]
    flops = values(found.overall())["decoder FLOPs per token"]
    assert flops[0] == flops[1] == pytest.approx(2 * (2 * 2.1 * 24 + 2 * (2 * 4 * (4 + 2) + 8 * 4 + 24)))


def test_the_page_shows_both_runs_and_nothing_else(tmp_path: Path) -> None:
    evil = "<script>x"
    a = make_run(tmp_path / "a<b>")
    row = experts_row(evil, 0) | {"token_types": [evil, *TYPES[1:]]}
    b = run_of(tmp_path / "b", [row])
    page = compare_page(compare(a, b))
    tags_of(page)
    assert is_alone(page) and "a&lt;b&gt;" in page and "<b>" not in page
    text = text_of(compare_page(compare(a, a)))
    assert "experts per token 2.10 2.10 +0.00" in text and "By token type" in text and "layer 1" in text


def test_json_names_every_figure_of_both(pair: Comparison) -> None:
    row = json.loads(json.dumps(pair.to_json(), allow_nan=False))
    assert row["a"]["run"] == "a" and row["b"]["stage"] == "sft"
    assert row["overall"]["R@1 IoU 0.5"] == {"a": 40.0, "b": 50.0, "difference": 10.0}
    assert row["layers"]["0"]["experts per token"] == {"a": 1.5, "b": 1.0, "difference": -0.5}
    assert row["types"]["time"]["tokens without expert"] == {"a": None, "b": None, "difference": None}
    assert row["mean_k_by_layer_and_type"]["1"]["time"]["difference"] == 0.0


def test_two_stages_of_a_real_run(tiny_run: Path) -> None:
    found = compare(tiny_run / "models" / "backbone", tiny_run)
    assert [last.global_step for last in found.last] == [4, 12]
    overall = values(found.overall())
    assert overall["experts per token"][0] != overall["experts per token"][1]
    assert overall["decoder FLOPs per token"][0] is not None
    assert found.settings() == []
    assert "A: no evaluation after stage backbone is recorded." in found.notes
    assert is_alone(compare_page(found))
