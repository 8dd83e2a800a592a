"""A video in, a question, the answer on the timeline: what the page is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from .browser import Tab
from .conftest import PROMPT, ask, asked
from .stand_in import Script, answer, event


def test_a_chosen_video_is_uploaded_and_asked_about(tab: Tab, script: Script, clip: Path) -> None:
    asked(tab, clip)
    assert script.files["file-1"] == ("clip.mp4", clip.read_bytes())
    (question,) = script.asked
    assert question == {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "video_url", "video_url": {"url": "file-1"}},
                    {"type": "text", "text": PROMPT},
                ],
            }
        ],
        "stream": True,
    }
    assert tab.text("#events").split("\n")[:2] == ["4.0 – 9.0 s", "a red square moves"]
    assert "start 92 %" in tab.text("#events") and "score 4.5" in tab.text("#events")
    assert tab.text("#status") == "2 events"
    assert tab.text("#timings") == "waited 0.01 s · decoded 0.12 s · encoded 0.20 s · generated 1.25 s"


def test_a_dropped_video_is_opened(tab: Tab, script: Script, clip: Path) -> None:
    tab.drop(clip, 300, 300)
    tab.until("document.querySelector('#upload').textContent === 'uploaded'")
    assert tab.text("#video-name") == "clip.mp4" and list(script.files) == ["file-1"]
    assert tab.until("document.querySelector('#player').duration") == pytest.approx(20.0, abs=0.05)


def test_a_sample_is_played_and_brings_its_questions(tab: Tab, script: Script) -> None:
    tab.until("document.querySelectorAll('#sample-list button').length")
    tab.click("#sample-list button")
    tab.until("document.querySelector('#player').readyState > 0")
    assert tab.text("#suggestions button") == "When is it dark?"
    assert tab.js("document.activeElement.id") == "video-name"  # the sample's button is gone
    tab.click("#suggestions button")
    tab.click("#send")
    tab.until("!document.querySelector('#export').hidden")
    (question,) = script.asked
    content = question["messages"][0]["content"]
    assert content[0]["video_url"]["url"] == "sample-field" and content[1]["text"] == "When is it dark?"
    assert tab.text("#stream") == "No event was found."


def test_segments_stand_where_the_events_say(tab: Tab, clip: Path) -> None:
    asked(tab, clip)
    track = tab.box(".track")
    duration_s = tab.js("document.querySelector('#player').duration")
    for i, (start_s, end_s) in enumerate([(4.0, 9.0), (14.5, 18.0)]):
        segment = tab.box(".segment", i)
        scale = track["width"] / max(duration_s, 20.0)
        assert segment["left"] - track["left"] == pytest.approx(start_s * scale, abs=0.6)
        assert segment["width"] == pytest.approx((end_s - start_s) * scale, abs=0.6)
    frames = tab.js("[...document.querySelectorAll('.frame')].map((mark) => mark.style.left)")
    assert frames == ["12.5%", "37.5%", "62.5%", "87.5%"]
    edges = tab.js("[...document.querySelectorAll('.edge')].map((edge) => edge.style.opacity)")
    assert edges[:2] == ["0.93", "0.5"]  # 0.15 + 0.85 * confidence


def test_events_that_overlap_get_lanes(tab: Tab, script: Script, clip: Path) -> None:
    script.answers["all"] = answer(event(1, 8, "a"), event(5, 12, "b"), event(8, 10, "c"), event(None, None, "no time"))
    asked(tab, clip, "all")
    tops = tab.js("[...document.querySelectorAll('.segment')].map((node) => parseFloat(node.style.top))")
    assert tops == [0, 22, 0] and tab.box(".track")["height"] == 44
    assert tab.js("document.querySelectorAll('#events li').length") == 4


def test_a_click_on_a_segment_seeks_the_player(tab: Tab, clip: Path) -> None:
    asked(tab, clip)
    tab.click(".segment", 1)
    tab.until("!document.querySelector('#player').seeking && document.querySelector('#player').currentTime === 14.5")
    assert tab.js("document.querySelector('.playhead').style.left") == "72.5%"
    assert tab.js("[...document.querySelectorAll('.segment')].map((node) => node.matches('.now'))") == [False, True]
    assert tab.js("[...document.querySelectorAll('.event-row')].map((node) => node.matches('.picked'))") == [
        False,
        True,
    ]
    tab.click(".ruler", at=(0.25, 0.5))
    tab.until("Math.abs(document.querySelector('#player').currentTime - 5) < 0.05")
    tab.click("button.event-row")
    tab.until("document.querySelector('#player').currentTime === 4")


def test_hovering_says_what_an_event_is(tab: Tab, clip: Path) -> None:
    asked(tab, clip)
    assert tab.text("#tip") == ""
    tab.hover(".segment", 1)
    assert tab.text("#tip") == "14.5 – 18.0 s · it leaves · score 4.5 · confidence: start 70 %, end 80 %, score 60 %"
    tab.press("Escape")
    assert tab.text("#tip") == ""


def test_scores_over_time_are_a_curve(tab: Tab, script: Script, clip: Path) -> None:
    script.answers["how salient"] = answer(*[event(t, t, "", score) for t, score in [(2, 1), (6, 4), (10, 2), (14, 0)]])
    asked(tab, clip, "how salient")
    line = tab.js("document.querySelector('.curve polyline').getAttribute('points')").split()
    assert [float(point.split(",")[0]) for point in line] == [100, 300, 500, 700]
    heights = [float(point.split(",")[1]) for point in line]
    assert heights[1] < heights[2] < heights[0] < heights[3]  # the y axis points down
    track, dot = tab.box(".track"), tab.box(".dot", 1)
    assert dot["left"] + dot["width"] / 2 - track["left"] == pytest.approx(0.3 * track["width"], abs=0.6)
    assert tab.text(".scale") == "4"


def test_a_point_has_one_confidence_of_its_time(tab: Tab, script: Script, clip: Path) -> None:
    script.answers["when"] = answer(event(3.0, 3.0, "a flash", start=0.75, end=0.75))
    asked(tab, clip, "when")
    point, track = tab.box(".point"), tab.box(".track")
    assert point["left"] + point["width"] / 2 - track["left"] == pytest.approx(0.15 * track["width"], abs=0.6)
    assert tab.js("document.querySelector('.point').ariaLabel") == "3.0 s · a flash · confidence: time 75 %"
    assert tab.text(".sure").strip() == "time 75 %"


def test_each_question_has_a_row(tab: Tab, script: Script, clip: Path) -> None:
    script.answers["second"] = answer(event(0, 2, "start"))
    asked(tab, clip, PROMPT, "second")
    assert tab.js("[...document.querySelectorAll('.row-name')].map((node) => node.textContent)") == [PROMPT, "second"]
    assert tab.text("#asked") == "second"
    colours = tab.js(
        "[...document.querySelectorAll('.edge.start')].map((node) => getComputedStyle(node).backgroundColor)"
    )
    assert colours[0] == colours[1] != colours[2]
    tab.click(".segment", 0)
    assert tab.text("#asked") == PROMPT
    assert tab.js("[...document.querySelectorAll('.row-name')].map((node) => node.ariaPressed)") == ["true", "false"]


def test_the_answer_streams_and_can_be_stopped(tab: Tab, script: Script, clip: Path) -> None:
    script.pieces[PROMPT] = ["4.0 - 9.0 s: a red", " square moves"]
    script.gate.clear()
    tab.choose("#file", [clip])
    ask(tab, PROMPT)
    tab.until("document.querySelector('#stream').textContent === '4.0 - 9.0 s: a red'")
    assert tab.js("document.querySelector('#answer').ariaBusy") == "true" and tab.text("#status") == "answering"
    tab.click("#stop")
    assert script.left.wait(30)
    tab.until("document.querySelector('#send').ariaDisabled === 'false'")
    assert tab.js("document.querySelectorAll('.segment').length") == 0
    script.gate.set()
    ask(tab, PROMPT)
    tab.until("document.querySelectorAll('.segment').length === 2")


def test_expert_use_is_a_heat_map(tab: Tab, script: Script, clip: Path) -> None:
    shares = [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]
    tokens = {"text": [0.5, 0.5, 0], "time": [0, 0.1, 0.9], "score": []}
    script.answers[PROMPT]["experts"] = {"layers": shares, "tokens": tokens}
    tab.click("#include-experts")
    asked(tab, clip)
    assert script.asked[0]["include_experts"] is True
    cells = tab.js(
        "[...document.querySelectorAll('.heat')[0].children].map((cell) => +cell.getAttribute('fill-opacity'))"
    )
    assert cells == pytest.approx([share / 0.7 for row in shares for share in row], abs=1e-3)
    assert tab.text(".readout") == "Most used: layer 1, expert 2: 70 % of the tokens"
    tab.hover(".heat rect", 0)
    assert tab.text(".readout") == "Layer 0, expert 0: 50 % of the tokens"
    names = tab.js("[...document.querySelectorAll('.heat-names li')].map((node) => node.textContent)")
    assert names == ["text", "time"]


def test_damage_problems_and_cut_answers_are_said(tab: Tab, script: Script, clip: Path) -> None:
    script.answers[PROMPT] |= {
        "video_damage": "cut short at 12.0 s.",
        "finish_reason": "length",
        "problems": [{"position": 3, "reason": "no end"}, {"position": 0, "reason": "the answer is empty"}],
    }
    asked(tab, clip)
    notes = tab.text("#notes")
    assert "damaged: cut short at 12.0 s." in notes and "was cut" in notes
    assert "Not understood: no end (at 3)." in notes and "Not understood: the answer is empty." in notes


def test_the_chosen_form_is_sent(tab: Tab, script: Script, clip: Path) -> None:
    tab.js("document.querySelector('#task').value = 'dense_captioning'")
    tab.js("document.querySelector('#task').dispatchEvent(new Event('change'))")
    assert tab.text("#suggestions button") == "Describe every event with its time."
    asked(tab, clip)
    assert script.asked[0]["task"] == "dense_captioning"
