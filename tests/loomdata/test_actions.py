"""Ranges of frame ids: what is refused and why, and ids to seconds."""

import base64
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from timeexpert.loomdata.actions import ActionQuestion, Range, Stretch, read_ranges
from timeexpert.loomdata.asking import Fault
from timeexpert.loomdata.config import ActionsConfig
from timeexpert.loomdata.marking import BRIGHT, as_jpeg, marked, middle, numbered, outline, picture_size, resized

GOOD = "from 0 to 19: He walks.\n\nFrom 20 to 39: He sits down: slowly.\n"


def test_lines_become_ranges():
    assert read_ranges(GOOD, 40, 13) == [Range(0, 19, "He walks."), Range(20, 39, "He sits down: slowly.")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it has no line."),
        ("He walks.", "line 1 ('He walks.') must be like \"from 0 to 20: what the person does\"."),
        ("from 0 to 39:", "must be like"),
        (GOOD + "Done!", "line 3 ('Done!') must be like"),
        ("from 0 to 19: a\nfrom 20 to 40: b", "line 2 (from 20 to 40) names frame 40; the last one is 39."),
        (
            "from 0 to 19: a\nfrom 19 to 39: b",
            "line 2 (from 19 to 39) overlaps the line before it: it must begin at 20.",
        ),
        ("from 1 to 39: a", "line 1 (from 1 to 39) leaves out frames 0 to 0: it must begin at 0."),
        ("from 0 to 14: a\nfrom 18 to 39: b", "leaves out frames 15 to 17: it must begin at 15."),
        ("from 0 to 30: a", "it ends at frame 30; frames 31 to 39 are missing."),
        ("from 0 to 11: a\nfrom 12 to 39: b", "line 1 (from 0 to 11) has 12 frames; a range has at least 13."),
        ("from 0 to 39: " + "a" * 3000, "has a text of more than 2000 characters."),
        ("from 0 to 39: He shows [SEG].", "has [SEG] in its text"),
        ("from 20 to 0: a", "leaves out frames 0 to 19"),
        ("a" * 200_001, "it has more than 200000 characters."),
    ],
)
def test_what_breaks_a_rule_is_named(text, reason):
    fault = read_ranges(text, 40, 13)
    assert isinstance(fault, Fault) and reason in fault.reason


def test_a_stretch_too_short_for_a_range_is_one_range():
    assert read_ranges("from 0 to 4: He nods.", 5, 13) == [Range(0, 4, "He nods.")]
    assert isinstance(read_ranges("from 0 to 1: a\nfrom 2 to 4: b", 5, 13), Fault)


def test_ids_become_seconds_as_in_the_papers_example():
    """Fig. 8 of VideoLoom: a stretch from 6.0 s, ranges "6.0s - 19.0s" and "19.0s - 48.5s" at 2 frames a second."""
    stretch = Stretch(6.0, 66.44, (0,))
    assert stretch.seconds(0, 25, 2.0) == (6.0, 19.0) and stretch.seconds(26, 84, 2.0) == (19.0, 48.5)
    assert stretch.num_frames(2.0) == 121 and stretch.seconds(85, 120, 2.0) == (48.5, 66.44)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
@given(st.floats(0, 500), st.floats(0.2, 400), st.sampled_from([1.0, 2.0, 3.0]), st.data())
def test_ranges_that_follow_each_other_cover_the_stretch_without_gap_or_overlap(start_s, length_s, fps, data):
    stretch = Stretch(start_s, start_s + length_s, (0,))
    count = stretch.num_frames(fps)
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1), max_size=4))) if count > 1 else []
    edges = [0, *cuts, count]
    spans = [stretch.seconds(a, b - 1, fps) for a, b in zip(edges, edges[1:], strict=False)]
    assert spans[0][0] == round(start_s, 3) and spans[-1][1] == round(stretch.end_s, 3)
    assert all(before[1] == after[0] for before, after in zip(spans, spans[1:], strict=False))
    assert stretch.frame_time_s(count - 1, fps) < stretch.end_s + 1e-6


# --- what the endpoint is shown ---------------------------------------------------------------------------------


def test_a_question_holds_every_picture_in_order_and_the_last_id():
    jpegs = [as_jpeg(Image.new("RGB", (32, 24), (i * 20, 0, 0))) for i in range(5)]
    (message,) = ActionQuestion(5, lambda: jpegs, ActionsConfig()).messages()
    text, *parts = message["content"]
    assert "The last frame id is 4:" in text["text"] and "at least 13 frames" in text["text"]
    sent = [base64.b64decode(part["image_url"]["url"].split(",")[1]) for part in parts]
    assert sent == jpegs and Image.open(BytesIO(sent[0])).size == (32, 24)


def test_the_number_is_red_and_in_the_lower_left_corner():
    picture = np.array(numbered(Image.new("RGB", (320, 240), (90, 90, 90)), 37)).astype(int)
    red = (picture[..., 0] > 200) & (picture[..., 1] < 60) & (picture[..., 2] < 60)
    rows, columns = np.nonzero(red)
    assert len(rows) > 100 and rows.min() >= 190 and columns.max() <= 80
    other = np.array(numbered(Image.new("RGB", (320, 240), (90, 90, 90)), 38)).astype(int)
    assert (other != picture).any()


def test_the_mark_lies_on_the_mask_and_nowhere_else():
    mask = np.zeros((120, 160), bool)
    mask[40:100, 60:120] = True
    before = np.full((120, 160, 3), 50, np.uint8)
    after = np.array(marked(Image.fromarray(before), mask))
    changed = (after != before).any(axis=2)
    assert changed[mask].any() and not changed[~mask].any()
    assert (after[40, 60:120] == BRIGHT).all()
    inner = (after[60:80, 80:100] == BRIGHT).all(axis=2)
    assert inner.any()  # the 1 in the middle
    assert np.array_equal(np.array(marked(Image.fromarray(before), np.zeros_like(mask))), before)


def test_an_outline_is_as_wide_as_asked_and_its_middle_lies_on_the_mask():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    assert outline(mask, 1).sum() == 24 and outline(mask, 2).sum() == 40
    ring = mask.copy()
    ring[3:6, 3:6] = False
    assert ring[middle(ring)] and middle(mask) == (4, 4)


def test_masks_and_pictures_are_resized_alike():
    mask = np.zeros((4, 6), bool)
    mask[:2, 3:] = True
    assert resized(mask, 2, 3).tolist() == [[False, True, True], [False] * 3]
    assert np.array_equal(resized(resized(mask, 40, 60), 4, 6), mask)
    assert picture_size(1080, 1920, 360) == (360, 640) and picture_size(100, 50, 360) == (100, 50)
