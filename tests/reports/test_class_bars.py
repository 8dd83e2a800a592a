"""Steps as bars of one colour per class: on a page as SVG, and as a picture."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from timeexpert.data.records import Sample
from timeexpert.evaluation.class_names import UNMATCHED
from timeexpert.evaluation.frame_labels import FrameLabels
from timeexpert.evaluation.records import Told
from timeexpert.evaluation.results import Scored, to_json
from timeexpert.evaluation.tasks import score_task, task_named
from timeexpert.reports.class_bars import NO_CLASS, bars_of_events, class_bars, class_legend, class_lines
from timeexpert.reports.class_picture import draw_steps
from timeexpert.reports.errors import ReportError
from timeexpert.reports.evaluation_page import write_evaluation_page
from timeexpert.reports.palette import expert_colour
from timeexpert.tokenization import Event, EventSequence

NAMES = ("cut", "fry", "<eat>")
FRAMES = np.full((3, 16, 16, 3), 90, np.uint8)


def test_a_bar_has_the_colour_and_the_number_of_its_class() -> None:
    labels = FrameLabels.from_runs([("background", 15), ("fry", 30), (UNMATCHED, 15), ("cut", 45)])
    bars = class_bars(labels, NAMES)
    assert [(b.start_s, b.end_s, b.number, b.mark) for b in bars] == [(1, 3, 1, "2"), (3, 4, None, "?"), (4, 7, 0, "1")]
    assert [b.colour for b in bars] == [expert_colour(1), NO_CLASS, expert_colour(0)]
    assert class_bars(None, NAMES) == []


def test_bars_of_events_are_what_is_scored() -> None:
    events = EventSequence((Event(0, 2, text="Fry."), Event(1, 3, text="dance"), Event(text="cut")))
    assert [(b.start_s, b.end_s, b.number) for b in bars_of_events(events, NAMES, 3.0)] == [(0, 1, 1), (1, 3, None)]


def test_both_lines_and_the_legend_tell_the_same_classes_apart() -> None:
    truth = class_bars(FrameLabels.from_runs([("cut", 30), ("<eat>", 30)]), NAMES)
    told = class_bars(FrameLabels.from_runs([("cut", 60)]), NAMES)
    svg = class_lines(4.0, truth, told)
    colours = re.findall(r'fill="(#\w+)"', svg)
    assert colours == [expert_colour(0), expert_colour(2), expert_colour(0)]
    assert "0.0 - 2.0 s cut" in svg and "2.0 - 4.0 s &lt;eat&gt;" in svg
    legend = class_legend([*told, *truth])
    assert re.findall(r"background:(#\w+)", legend) == [expert_colour(0), expert_colour(2)]
    assert legend.index("cut") < legend.index("&lt;eat&gt;") and "fry" not in legend
    assert "no answer that could be read" in class_lines(4.0, truth, None)


def colours_in(png: bytes) -> set[tuple[int, int, int]]:
    pixels = np.asarray(Image.open(BytesIO(png)).convert("RGB")).reshape(-1, 3)
    return {tuple(map(int, pixel)) for pixel in np.unique(pixels, axis=0)}


def test_a_picture_shows_every_class_in_its_colour(tmp_path: Path) -> None:
    truth = EventSequence((Event(0, 3, text="cut"), Event(3, 6, text="fry")))
    told = EventSequence((Event(0, 3, text="fry"), Event(3, 6, text="dance")))
    png = draw_steps(FRAMES, [0.0, 2.0, 4.0], truth, told, 6.0, "Which steps?", NAMES, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == png
    shown = colours_in(png)
    assert {ImageColor.getrgb(c) for c in (expert_colour(0), expert_colour(1), NO_CLASS)} <= shown
    assert ImageColor.getrgb(expert_colour(2)) not in shown


def test_a_picture_without_truth_or_answer_is_drawn_and_bad_input_refused() -> None:
    nothing = colours_in(draw_steps(FRAMES, [0, 1, 2], None, None, 6.0, "?", NAMES))
    assert ImageColor.getrgb(expert_colour(0)) not in nothing
    draw_steps(FRAMES[:0], [], None, EventSequence((Event(0, 1, text="x"),)), 6.0, "?", ())
    with pytest.raises(ReportError, match="3 frames but 1 frame times"):
        draw_steps(FRAMES, [0.0], None, None, 6.0, "?", NAMES)


def test_the_page_of_an_evaluation_draws_truth_over_answer(tmp_path: Path) -> None:
    events = EventSequence((Event(0, 3, text="cut"), Event(3, 6, text="fry")))
    sample = Sample(
        id="a", video="a.mp4", task="action_segmentation", prompt="?", events=events, duration_s=6.0,
        meta={"classes": list(NAMES)},
    )  # fmt: skip
    lost = Sample(**{**vars(sample), "id": "b"})
    told = [Told(segments_s=((0, 3), (3, 6)), texts=("cut", "dance")), None]
    scores = score_task(task_named("action_segmentation"), [sample, lost], told)
    scored = {"action_segmentation": Scored([sample, lost], told, scores)}
    write_evaluation_page(tmp_path / "r.html", "t", to_json(scored), scored, [])
    page = (tmp_path / "r.html").read_text()
    assert page.count('<svg class="steps"') == 2 and page.count("no answer that could be read") == 1
    assert page.count('<div class="classes">') == 1 and "no class" in page
    assert "1 of 2 texts (50.0 %) are no class" in page
