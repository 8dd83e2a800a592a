"""Highlights as models write them in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeexpert.evaluation.highlight_text import READINGS, read_highlights
from timeexpert.evaluation.highlights import HighlightTruth, clip_scores


@pytest.mark.parametrize(
    ("text", "points"),
    [
        (
            "There are 2 highlight moments in the 8, 29 second. Their saliency scores are 3.3, 1.3.",
            [(8.0, 3.3), (29.0, 1.3)],
        ),
        (
            "The highlight timestamps are in the 59.5 and 61 seconds. The scores are 3.7 and 2",
            [(59.5, 3.7), (61.0, 2.0)],
        ),
        (
            "1. At 5.0 seconds, the saliency score is 2.3.\n2. At 7.0 seconds, the saliency score is 4.",
            [(5, 2.3), (7, 4)],
        ),
        ("Second 15: score 2.8\nSecond 34: score 2.7", [(15.0, 2.8), (34.0, 2.7)]),
        ("The moment at 41 seconds has a score of 1", [(41.0, 1.0)]),
        (
            "The highlights are at 12 s (score 4.5), 14s (score 3) and 20 sec (score 2.25).",
            [(12, 4.5), (14, 3), (20, 2.25)],
        ),
    ],
)
def test_the_forms_of_an_answer(text: str, points: list[tuple[float, float]]) -> None:
    assert read_highlights(text) == points


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no highlights",
        "second score",
        "There are 0 highlight moments",
        "There are 3 highlight moments in the 10, 12 second. Their saliency scores are 3.0.",  # a score too few
        "There are 2 highlight moments in 4, 9. Their saliency scores are 3.0, 2.0.",  # frames, not seconds
        "In the <TIME_ZERO> <TIME_FIVE> <TIME_DOT> <TIME_ZERO> second. Their saliency scores are 1.0.",
        "At 5 seconds, the saliency score is 2. The last score is 4.",  # of no time
        "Second -15: score 2.8",
        "At -5 seconds, the saliency score is 2.",
        "At 5 seconds, the saliency score is 90%.",
        "12 s to 14 s",
    ],
)
def test_a_text_in_no_form_did_not_parse(text: str) -> None:
    assert read_highlights(text) is None


def test_timechat_and_vtgllm_read_in_their_own_form_what_their_scripts_read(shared: Path) -> None:
    document = json.loads((shared / "oracles" / "text_parsers" / "parsers.json").read_text("utf-8"))
    (case,) = (case for case in document["cases"] if case["id"] == "vhd_texts")
    truth = HighlightTruth.from_annotations([], np.zeros((0, 3)), 150)
    agreed = {"timechat": 0, "vtgllm": 0}
    for i, text in enumerate(case["inputs"]["texts"]):
        for convention, read in READINGS.items():
            points = read(text)
            if points is None or text == "in the 8, 9 second scores are 5.0, 11.0":  # a score is lost
                continue
            wanted = np.zeros(75)
            for clip, value in case["expected"][f"{convention}.vhd"][i].items():
                wanted[int(clip)] = value
            assert clip_scores([truth], [points], convention)[0] == pytest.approx(wanted, abs=1e-12), text
            agreed[convention] += 1
    assert agreed["timechat"] >= 15 and agreed["vtgllm"] >= 7, agreed


SCRAPS = [
    "at 5 s",
    "second 7",
    "score",
    "scores are",
    "the",
    "in the",
    "3",
    "2.5",
    ",",
    "(",
    ":",
    "and",
    "-",
    "\n",
    "%",
]


@given(st.lists(st.sampled_from(SCRAPS) | st.text(max_size=3), max_size=12))
def test_any_text_is_read_or_did_not_parse(parts: list[str]) -> None:
    for read in (read_highlights, *READINGS.values()):
        points = read(" ".join(parts))
        assert points is None or (points and all(time_s >= 0 and score >= 0 for time_s, score in points))
