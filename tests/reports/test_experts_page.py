from __future__ import annotations

import re
from pathlib import Path

from timeexpert.reports.expert_sources import read_experts
from timeexpert.reports.experts import expert_report
from timeexpert.reports.experts_page import experts_page, experts_sections

from .fake_run import TYPES, experts_row, make_run, write_lines
from .pages import is_alone, pixels_of, tags_of, text_of
from .weights import expert_tensors, write_model


def figures(page: str) -> dict[str, str]:
    """Each figure by its caption."""
    found = re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL)
    return {text_of(f.split("</figcaption>")[0]): f for f in found}


def page_of(run: Path) -> str:
    return experts_page(*read_experts(run))


def test_the_page_has_a_map_of_use_for_each_layer_and_token_type(tmp_path):
    run = make_run(tmp_path / "run")
    drawn = figures(page_of(run))
    for layer in (0, 1):
        for name in ("all tokens", *(f"{t} tokens" for t in TYPES)):
            pixels = pixels_of(drawn[f"Layer {layer}, {name}"])
            assert pixels.shape[:2] == (8, 10)  # experts, records
            assert pixels[5, :, 3].max() == 0  # the dead expert takes nothing
            assert pixels[7, :, 3].min() > 0 and len(set(pixels[7, 0, :3])) == 1  # a free slot is grey
    evenness = pixels_of(drawn["time tokens"])
    assert evenness.shape[:2] == (2, 10)  # layers, records


def test_layers_and_types_are_chosen_without_a_script(tmp_path):
    page = page_of(make_run(tmp_path / "run"))
    assert is_alone(page)
    shown = re.findall(r'<figure class="heat by-l (l\d) by-t (t\d)">', page)
    assert {("l0", "t0"), ("l1", "t6")} <= set(shown)
    for name, kind, options in (("use-layer", "l", 2), ("use-type", "t", 7)):
        rows = re.findall(rf'<input type="radio" name="{name}" class="{kind}-(\w+)"( checked)?>', page)
        assert [key for key, _ in rows] == ["all", *map(str, range(options))]
        assert sum(bool(checked) for _, checked in rows) == 1
    assert ".pick:has(.l-1:checked) .by-l:not(.l1){display:none}" in page


def test_words_of_a_map_name_the_experts_used_most_and_least(tmp_path):
    row = experts_row("sft", 0, layers=1)
    row["layers"][0] |= {"active": [True] * 8, "load": [0.0, 0.5, *[0.1] * 5, 0.0], "rates": [[0.1] * 8] * 6}
    write_lines(tmp_path / "metrics.jsonl", [row, row | {"global_step": 9}])
    picture = figures(page_of(tmp_path))["Layer 0, all tokens"]
    assert "expert 1 is used most, 4 times a fair share, and expert 0 least, 0 times" in picture


def test_charts_show_experts_per_token_and_tokens_without_expert_by_type(tmp_path):
    drawn = figures(page_of(make_run(tmp_path / "run")))
    for title in ("Experts per token, by token type", "Share of tokens without expert, by token type"):
        chart = drawn[f"{title} (mean over layers)"]
        assert all(f"</i>{t}</span>" in chart for t in TYPES)
    old = [experts_row("sft", step) for step in (0, 20)]
    for row in old:
        for layer in row["layers"]:
            del layer["fallback_by_type"], layer["tokens"]
    write_lines(tmp_path / "old" / "metrics.jsonl", old)
    titles = figures(page_of(tmp_path / "old"))
    assert "Experts per token, by token type (mean over layers)" in titles
    assert not any("without expert, by token type" in title for title in titles)


def test_dead_and_duplicate_experts_are_named_with_the_rules(tmp_path):
    run = make_run(tmp_path / "run")
    tensors = expert_tensors(2, 8)
    for name in ("gate_up_proj", "down_proj"):
        tensors[f"decoder.layers.1.moe.experts.{name}"][4] = tensors[f"decoder.layers.1.moe.experts.{name}"][1]
    write_model(run / "models" / "sft", tensors)
    text = text_of(page_of(run))
    assert "0 5 dead: 0 of a fair share, since step 0" in text
    assert "1 1 and 4 duplicates: cosine 1.000 (of their gate rows " in text
    assert "less than 0.01 of a fair share" in text and "cosine of 0.95 or more" in text


def test_savings_name_six_the_wanted_number_and_the_formula(tmp_path):
    run = make_run(tmp_path / "run")
    write_model(run / "models" / "sft", expert_tensors(2, 8))
    text = text_of(page_of(run))
    # 2.1 experts of 24 weights of 4 bytes in 2 layers; against 6: 1 - 2.1 / 6
    assert "measured 2.10 403 \u2013 202 \u2013" in text
    assert "k = 6 6.00 1.15 K 65.0 % 576 65.0 %" in text
    assert "wanted k = 2 2.00 384 -5.0 % 192 -5.0 %" in text
    assert "k \u00b7 3DF \u00b7 b" in text


def test_edits_are_drawn_on_the_timeline_and_in_the_maps_of_their_layer(tmp_path):
    drawn = figures(page_of(make_run(tmp_path / "run")))
    for title, marks in (("By layer and global step", 2), ("Layer 0, all tokens", 2), ("Layer 1, all tokens", 0)):
        assert drawn[title].count('class="mark') == marks, title
    assert "step 160, layer 0, expert 6: add; 4.1 % of tokens reached no expert" in drawn["By layer and global step"]


def test_a_run_without_checkpoint_says_what_is_left_out(tmp_path):
    text = text_of(page_of(make_run(tmp_path / "run")))
    assert "there is no checkpoint yet: similarity of experts and savings are left out." in text
    assert "Similarity of experts From" not in text and "Saved against" not in text


def test_one_record_is_enough_for_a_page(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [experts_row("sft", 0)])
    page = page_of(tmp_path)
    assert "Only one record so far" in page and is_alone(page)


def test_a_large_model_gives_a_page_of_a_few_megabytes(tmp_path):
    rows = [experts_row("sft", 20 * i, layers=28, slots=64) for i in range(3)]
    write_lines(tmp_path / "metrics.jsonl", [row | {"global_step": 9 * i} for i, row in enumerate(rows * 60)])
    page = page_of(tmp_path)
    tags_of(page)
    assert "6 of 28 layers" in page and "Layer 27, frame_time tokens" in page
    assert len(page) < 6_000_000


def test_the_page_escapes_what_records_say(tmp_path):
    edit = {"kind": "expert_edit", "stage": "<i>", "layer": 0, "expert": 1, "action": "add", "reason": "<script>x"}
    row = experts_row("<i>", 0) | {"token_types": ["<u>", *TYPES[1:]]}
    write_lines(tmp_path / "metrics.jsonl", [row, row | {"global_step": 5}, edit | {"global_step": 3}])
    page = page_of(tmp_path)
    assert is_alone(page) and "<u>" not in page and "<i>" not in page
    assert "&lt;script&gt;x" in page and "&lt;u&gt; tokens" in page


def test_a_run_of_zero_load_is_drawn(tmp_path):
    row = experts_row("rl", 0, layers=1)
    row["layers"][0] |= {
        "load": [0.0] * 8,
        "rates": [[0.0] * 8] * 6,
        "mean_k": None,
        "fallback": None,
        "tokens": [0] * 6,
    }
    write_lines(tmp_path / "metrics.jsonl", [row, row | {"global_step": 9}])
    assert "dead: 0 of a fair share" in page_of(tmp_path)


def test_the_page_of_a_whole_run_holds_the_same_parts_without_weights(tmp_path):
    parts = experts_sections(expert_report(make_run(tmp_path)))
    assert any("Use of each expert over training" in part for part in parts)
    assert any("Duplicates are named by timeexpert experts report" in part for part in parts)


def test_a_real_run_gives_the_whole_page(tiny_run: Path):
    page = page_of(tiny_run)
    text = text_of(page)
    assert is_alone(page)
    assert "From the weights of sft, step 12." in text and "Saved against 6 experts per token" in text
    assert "3 expert slots, so 6 is only a yardstick" in text
    assert pixels_of(figures(page)["Layer 1: gate rows"]).shape[:2] == (3, 3)
