from __future__ import annotations

import re

import numpy as np
import pytest

from timeexpert.reports.maps import ABSENT_OPACITY, MAX_COLUMNS, Mark, history_map, scale, similarity_map

from .pages import pixels_of, tags_of, text_of

STEPS = [("warm", 10), ("warm", 20), ("sft", 30)]


def test_a_cell_is_as_strong_as_its_value_and_grey_without_one():
    svg = history_map("Load", [[0.0, 1.5, 3.0], [9.0, None, 3.0]], STEPS, full=3.0, alt="two experts")
    pixels = pixels_of(svg)
    assert pixels[..., 3].tolist() == [[0, 128, 255], [255, ABSENT_OPACITY, 255]]
    red, green, blue = pixels[1, 1, :3]
    assert red == green == blue  # grey: no value
    assert pixels[0, 1, 2] > pixels[0, 1, 0]  # blue: a value


def test_the_map_says_in_words_what_it_shows_and_names_steps_and_stages():
    svg = history_map("A <b>", [[1.0, 1.0, 1.0]], STEPS, full=1.0, alt="even <i>")
    tags_of(svg)
    assert 'aria-label="A &lt;b&gt;. even &lt;i&gt;"' in svg and "<b>" not in svg
    text = text_of(svg)
    assert "10 " in text and "30 " in text and "warm" in text and "sft" in text
    assert svg.count('class="stage"') == 1  # between warm and sft


def test_a_mark_stands_at_its_expert_and_at_the_first_record_that_knows_of_it():
    marks = [Mark(1, 20, True, "added <x>"), Mark(0, 25, False, "removed"), Mark(7, 20, True, "no such row")]
    svg = history_map("Load", [[1.0] * 3, [1.0] * 3], STEPS, full=1.0, alt="a", marks=marks)
    assert svg.count('class="mark added"') == 1 and svg.count('class="mark removed"') == 1
    assert "added &lt;x&gt;" in svg
    paths = {
        kind: tuple(map(float, (x, tip, base)))
        for kind, x, tip, base in re.findall(r'class="mark (\w+)" d="M(\S+) (\S+)L\S+ (\S+)H', svg)
    }
    assert paths["added"][0] < paths["removed"][0]  # columns of steps 20 and 30
    assert paths["added"][1] < paths["added"][2] and paths["removed"][1] > paths["removed"][2]  # up, down


def test_a_slot_that_is_freed_and_filled_in_one_step_shows_both():
    marks = [Mark(0, 20, False, "removed"), Mark(0, 20, True, "added")]
    svg = history_map("Load", [[1.0] * 3], STEPS, full=1.0, alt="a", marks=marks)
    removed, added = (float(x) for x in re.findall(r'd="M(\S+) ', svg))
    (half,) = {float(right) - added for right in re.findall(rf'd="M{added} \S+L(\S+) ', svg)}
    assert added - removed >= 2 * half > 0


def test_many_records_keep_their_labels_apart_and_the_last_one_labelled():
    steps = [("sft", 1000 * i) for i in range(MAX_COLUMNS)]
    svg = history_map("Load", [[1.0] * len(steps)], steps, full=1.0, alt="a")
    labels = [int(word) for word in text_of(svg).split() if word.isdigit() and int(word) >= 1000]
    assert labels[0] == steps[-1][1]
    assert len(labels) < 12


def test_alike_is_blue_opposite_orange_and_an_empty_slot_grey():
    cosines = np.array([[1.0, -0.5, 0.3], [-0.5, 1.0, 0.0], [0.3, 0.0, 1.0]], dtype=np.float32)
    pixels = pixels_of(similarity_map("Gate", cosines, [True, True, False], alt="three"))
    assert pixels[0, 0].tolist()[3] == 255 and pixels[0, 0, 2] > pixels[0, 0, 0]
    assert pixels[0, 1, 3] == 128 and pixels[0, 1, 0] > pixels[0, 1, 2]
    assert pixels[0, 2, 3] == pixels[2, 2, 3] == ABSENT_OPACITY


@pytest.mark.parametrize("signed", [False, True])
def test_a_legend_names_both_ends(signed):
    legend = scale("0|3 times <", signed=signed)
    assert legend.startswith('<p class="scale">0 <i') and "3 times &lt;" in legend
