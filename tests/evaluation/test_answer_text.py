from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from timeexpert.evaluation import EvaluationError, moment_retrieval
from timeexpert.evaluation.answer_text import (
    EVENT_READINGS,
    READINGS,
    read_events,
    read_moment,
    read_segments,
    read_spans,
)

READ = {
    "The event happens in 12.3 - 45.6 seconds.": (12.3, 45.6),
    "from 12.3s to 45.6s": (12.3, 45.6),
    "From 59.7 seconds to 86.9 seconds.": (59.7, 86.9),
    "01:23 - 01:45": (83, 105),
    "1:02:03.5 to 1:02:10": (3723.5, 3730),
    "[12.3, 45.6]": (12.3, 45.6),
    "(1.0s; 2.5s)": (1, 2.5),
    "1,200 - 1,300": (1200, 1300),
    "45.1 \u2013 92.2 seconds": (45.1, 92.2),
    "10 \u2014 20": (10, 20),
    "50.8 ~ 117.7": (50.8, 117.7),
    "\uff13 - \uff15 seconds": (3, 5),
    "between 0.5 and 1.5 minutes": (30, 90),
    "1 minute 20 seconds to 2 minutes": (80, 120),
    "1h 2m 3s until 1h 3m": (3723, 3780),
    "The start time for this event is 32.4 seconds, and the end time is 100.7 seconds.": (32.4, 100.7),
    '{"start": 12.3, "end": 45.6}': (12.3, 45.6),
    "**12.3** - **45.6**": (12.3, 45.6),
    "<answer>0.0-31.2</answer>": (0, 31.2),
    "happens 3 times, in 4.0 - 9.0 seconds": (4, 9),
    "20 - 10": (20, 10),  # reversed: kept as written
    "0 - 0": (0, 0),
}
NOT_READ = (
    "", "No.", "5", "-", "44:49", "99:99 - 100:00", "1:75 - 2:00", "-5 - 20", "10 - -5", "[-5, 20]", "1 - 2 - 3",
    "2024-05-01 12:30", "1e3 - 2e3", "v2 - 3", "12.5.6 - 13", "2 - 3 frames", "frame 2 to 3", "10% - 20%",
    "about 42.3 seconds", "the last 5 seconds of the 30 second video", "12.3, 45.6", "1234567890123 - 5",
    "The event starts at frame 37 and ends at frame 115", "starts at 5 and lasts 3 seconds",
)  # fmt: skip


@pytest.mark.parametrize("text", READ)
def test_a_span_is_read(text):
    assert read_spans(text) == [READ[text]]


@pytest.mark.parametrize("text", NOT_READ)
def test_what_names_no_span_did_not_parse(text):
    assert read_spans(text) is None


def test_every_span_is_read_in_the_order_of_the_text():
    assert read_spans("9.7-11.4 40.1-43.1, [50, 60] and from 1:00 to 1:10") == [
        (9.7, 11.4),
        (40.1, 43.1),
        (50, 60),
        (60, 70),
    ]
    assert read_spans("It starts at 3.\nIt ends at 9.\nIt starts at 12 and ends at 15.") == [(3, 9), (12, 15)]


def test_a_caption_is_the_text_behind_its_span():
    text = "1.0 - 5.5 seconds, cut the onion. 6 to 9 seconds: fry it, 3 times."
    assert read_events(text) == [(1, 5.5, "cut the onion."), (6, 9, "fry it, 3 times.")]
    assert read_events("nothing happens") is None


def test_a_moment_is_the_first_time_and_a_negative_one_is_void():
    assert [read_moment(t) for t in ("25 seconds", "at 0:15", "moment-15.0", "-12.1", "no")] == [25, 15, 15, None, None]


def test_an_unknown_reading_is_refused():
    with pytest.raises(EvaluationError, match="knows no convention 'pet'. Choose one of strict, timechat, etbench"):
        read_segments("1 - 2", "pet")


@settings(max_examples=60)
@given(st.text(st.sampled_from("0123456789.:,-~ []()smtofrandbe\u2013\uff11%\n"), max_size=40) | st.text(max_size=60))
@example("9" * 400 + " - 5")
@example("1..2 - 3..")
@example("start time 3, end time 5, x")
def test_no_text_breaks_a_reading(text):
    for read in READINGS.values():
        segments = read(text)
        assert segments is None or (segments and all(len(segment) == 2 for segment in segments))
    for read in EVENT_READINGS.values():
        events = read(text)
        assert events is None or (events and all(isinstance(event[2], str) for event in events))


def test_a_very_long_text_is_read():
    assert len(read_spans("1.5 - 2.5; " * 30_000) or ()) == 30_000
    assert read_spans("a" * 200_000 + "-" * 200_000 + "9" * 200_000) is None


REFERENCES = {
    "timechat": "timechat.tvg",
    "etbench": "etbench.tvg",
    "lmms_eval": "lmms.charades",
    "timelens": "lmms.timelens",
}


@pytest.mark.parametrize("reading", REFERENCES)
def test_a_reading_finds_what_its_script_finds(shared: Path, reading):
    case = _parsers(shared)["tvg_texts"]
    for text, theirs in zip(case["inputs"]["texts"], case["expected"][REFERENCES[reading]], strict=True):
        crashed = isinstance(theirs, dict)
        wanted = None if crashed or not theirs else [tuple(segment) for segment in theirs]
        assert read_segments(text, reading) == wanted, text


@pytest.mark.parametrize("reading", ["timechat", "etbench"])
def test_a_reading_finds_the_captions_that_its_script_finds(shared: Path, reading):
    case = _parsers(shared)["dvc_texts"]
    for text, theirs in zip(case["inputs"]["texts"], case["expected"][f"{reading}.dvc"], strict=True):
        nothing = isinstance(theirs, dict) or not theirs[0]
        wanted = None if nothing else [(*times, caption) for times, caption in zip(*theirs, strict=True)]
        assert EVENT_READINGS[reading](text) == wanted, text


def _parsers(shared: Path) -> dict:
    document = json.loads((shared / "oracles" / "text_parsers" / "parsers.json").read_text("utf-8"))
    return {case["id"]: case for case in document["cases"]}


def test_charades_and_timelens_figures_equal_those_of_lmms_eval(shared: Path):
    document = json.loads((shared / "oracles" / "lmms_eval_tasks" / "tasks.json").read_text("utf-8"))
    cases = [case for case in document["cases"] if case["inputs"]["task"].startswith("charades")]
    assert len(cases) >= 3
    for case in cases:
        rows = {(r["video"], r["query"], str(r["span"])): r for r in case["inputs"]["rows"]}  # equal questions are one
        truth = [[tuple(row["span"])] for row in rows.values()]
        for task, reading in (("charades", "lmms_eval"), ("timelens", "timelens")):
            told = [read_segments(row["answer"], reading) for row in rows.values()]
            figures = moment_retrieval(truth, told, convention="lmms_eval").figures()
            theirs = case["expected"][task]
            ours = {"IOU@3": figures["r1_0.3"], "IOU@5": figures["r1_0.5"], "IOU@7": figures["r1_0.7"]}
            assert {**ours, "mIOU": figures["miou"]} == pytest.approx(theirs, abs=1e-9), (case["id"], task)
