from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from timeexpert.moe.adaptive import ExpertEdit
from timeexpert.reports.edits import COLUMNS, SHOWN, edit_cells, edit_counts, edit_marks, edits_section

from .pages import tags_of, text_of


def edit(**changes: Any) -> dict[str, Any]:
    row = {"stage": "sft", "step": 5, "global_step": 105, "layer": 1, "action": "add", "expert": 3, "active": 7}
    return (
        row | {"reason": "12 % of time tokens had none", "rate": 0.12345, "tokens": 512, "parent": "shared"} | changes
    )


def section(edits: list[dict[str, Any]], layers: tuple[int, ...] = (0, 1)) -> str:
    return "".join(edits_section(edits, layers, 8, 200))


def test_the_table_says_what_happened_where_and_why():
    text = text_of(section([edit()]))
    assert "sft 105 1 3 add shared 0.1235 512 7 12 % of time tokens had none" in text
    assert "stage step layer expert action copied from rate tokens active then reason" in text


def test_a_record_of_the_adaptive_process_is_shown_whole():
    made = ExpertEdit(
        layer=1, action="remove", expert=3, reason="computed 2 %", rate=0.02, tokens=9, parent=None, active=5
    )
    html = section([{"kind": "expert_edit", "stage": "sft", "step": 5, "global_step": 105, **asdict(made)}])
    assert "sft 105 1 3 remove 0.02 9 5 computed 2 %" in text_of(html)  # nobody was copied: no such column
    assert html.count('class="mark removed"') == 1
    assert {f.name for f in fields(ExpertEdit)} <= COLUMNS.keys()


def test_columns_that_no_record_fills_are_left_out():
    text = text_of(section([{"layer": 0, "expert": 1, "global_step": 4, "action": "add", "stage": "sft"}]))
    assert "copied from" not in text and "stage step layer expert action sft 4 0 1 add" in text


def test_records_that_say_no_place_are_in_the_table_and_not_in_the_picture():
    edits = [edit(), edit(layer=None, reason="lost"), edit(layer=9, reason="no such layer")]
    html = section(edits)
    tags_of(html)
    assert html.count('class="mark') == 1 and "lost" in html and "no such layer" in html


def test_the_picture_counts_in_words():
    html = section([edit(), edit(action="remove", global_step=55), edit(action="remove", global_step=60)])
    assert "steps 55 to 105: 1 times add, 2 times remove." in html


def test_the_table_is_cut_at_the_last_ones_and_says_so():
    html = section([edit(global_step=i) for i in range(SHOWN + 50)])
    assert f"The table holds the last {SHOWN} of {SHOWN + 50}." in html
    assert html.count("<tr") == SHOWN + 1
    assert html.count('class="mark') == SHOWN + 50


def test_marks_are_those_of_one_layer_in_their_direction():
    [mark] = edit_marks([edit(), edit(layer=0), edit(expert="x")], 1)
    assert (mark.row, mark.global_step, mark.added) == (3, 105, True)
    assert not edit_marks([edit(action="remove")], 1)[0].added


def test_cells_and_counts_of_odd_records():
    assert edit_cells({"rate": 1e-5, "tokens": 3.0, "reason": None}, ["rate", "tokens", "reason", "x"]) == [
        "1e-05",
        "3",
        "\u2013",
        "\u2013",
    ]
    assert edit_counts([{"action": "remove"}, {}, {"action": "remove"}]) == {"?": 1, "remove": 2}
    assert "None so far." in section([])
