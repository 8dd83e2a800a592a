"""Around the answer: export, history, keyboard, errors, colours, small screens, and text that would like to be HTML."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest

from .browser import Tab
from .conftest import PROMPT, ask, asked
from .stand_in import Script, StandIn, answer, event

MARKUP = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'
BUSY = (429, {"Retry-After": "2"}, {"error": {"message": "16 questions wait already."}})


def downloaded(path: Path) -> str:
    """The content of a download, once it is there."""
    for _ in range(3000):
        if path.is_file():
            return path.read_bytes().decode()
        time.sleep(0.01)
    raise AssertionError(f"no download {path.name}; there are {[p.name for p in path.parent.iterdir()]}")


# -- export


def test_an_answer_is_exported(tab: Tab, script: Script, clip: Path, downloads: Path) -> None:
    rows = [
        event(3725.25, 3730.0, 'says "no", twice\n\nand --> leaves', start=0.5, end=0.25),
        event(1.5, 1.5, "=1+1", 4.5, 3),
        event(None, None, "no time, só"),
        event(2.0, 2.0, ""),
    ]
    script.answers["export"] = answer(*rows, duration_s=4000.0)
    asked(tab, clip, "export")
    for button in range(3):
        tab.click("#export button", button)
    (exported,) = json.loads(downloaded(downloads / "clip.json"))
    assert exported["video"] == "clip.mp4" and exported["prompt"] == "export" and exported["model"] == "tiny"
    assert exported["events"] == rows and exported["frame_times_s"] == [2.5, 7.5, 12.5, 17.5]

    written = downloaded(downloads / "clip.csv")
    head, *lines = csv.reader(written.splitlines(keepends=True))
    assert head[3:8] == ["event", "start_s", "end_s", "text", "scores"] and written.endswith("\r\n")
    assert lines[0][3:] == ["1", "3725.25", "3730", rows[0]["text"], "", "0.5", "0.25", ""]
    assert lines[1][3:8] == ["2", "1.5", "1.5", "'=1+1", "4.5 3"]  # a spreadsheet would compute it
    assert lines[2][4:7] == ["", "", "no time, só"]

    assert downloaded(downloads / "clip.srt") == (
        "1\r\n00:00:01,500 --> 00:00:02,000\r\n=1+1\r\n\r\n"  # a point lasts until the next one begins
        "2\r\n00:00:02,000 --> 00:00:03,000\r\n(no caption)\r\n\r\n"
        '3\r\n01:02:05,250 --> 01:02:10,000\r\nsays "no", twice\r\nand -> leaves\r\n\r\n'
    )


def test_all_answers_about_a_video_are_exported_together(tab: Tab, clip: Path, downloads: Path) -> None:
    asked(tab, clip, PROMPT, "other")
    tab.click("#export-all")
    tab.click("#export button", 0)
    assert [row["prompt"] for row in json.loads(downloaded(downloads / "clip.json"))] == [PROMPT, "other"]


# -- history


def test_history_outlives_a_reload_and_opens_its_answers(tab: Tab, server: StandIn, script: Script, clip: Path) -> None:
    asked(tab, clip)
    tab.call("Page.reload")
    tab.until(
        "document.querySelector('#stage').hidden && document.querySelectorAll('#history-list button').length === 1"
    )
    tab.click("#history-list button")
    tab.until("document.querySelector('#player').readyState > 0")
    assert tab.js("document.querySelector('#player').src") == f"{server.url}v1/files/file-1/content"
    assert tab.js("document.querySelectorAll('.segment').length") == 2 and tab.text("#asked") == PROMPT
    tab.click("#forget")
    tab.until("document.querySelector('#history').hidden && localStorage['timeexpert.history'] === '[]'")
    for _ in range(1000):
        if not script.files:
            break
        time.sleep(0.01)
    assert script.files == {}


def test_a_video_that_the_server_dropped_is_said_to_be_gone(tab: Tab, script: Script, clip: Path) -> None:
    asked(tab, clip)
    script.files.clear()
    tab.call("Page.reload")
    tab.until("document.querySelectorAll('#history-list button').length === 1")
    tab.click("#history-list button")
    tab.until("document.querySelector('#player-note').textContent.includes('no longer holds this video')")
    assert tab.js("document.querySelectorAll('.segment').length") == 2


def test_history_is_bounded_and_distrusts_what_is_stored(tab: Tab) -> None:
    made = """(count, size) => Array.from({length: count}, (_, i) => ({
        id: String(i), prompt: "p".repeat(size), task: "", asked_at: i,
        video: {key: "k", kind: "upload", id: "f", name: "n"}, answer: {events: [], content: "", duration_s: 1}}))"""
    kept = "import('/page/history.js').then((h) => h.writeHistory(({})({})).length)"
    assert tab.js(kept.format(made, "80, 10")) == 50
    assert tab.js(kept.format(made, "40, 100_000")) == 9  # a million characters
    bad = """["[1, null, {}]", "{", "7", '[{"id": "a", "prompt": 5}]']"""
    read = f"""import('/page/history.js').then((h) => {bad}.map((text) => {{
        localStorage['timeexpert.history'] = text; return h.readHistory().length }}))"""
    assert tab.js(read) == [0, 0, 0, 0]


# -- keyboard and colours


def test_everything_is_reached_by_keyboard(tab: Tab, clip: Path) -> None:
    asked(tab, clip, PROMPT)
    tab.js("document.activeElement.blur(); document.querySelector('.skip').focus()")
    stops = []
    while (name := tab.js("document.activeElement.id || document.activeElement.className || 'body'")) not in stops:
        stops.append(name)
        tab.press("Tab")
        if tab.js("document.activeElement.id") == "player":  # the browser's own buttons are stops inside it
            tab.js("document.querySelector('.ruler').focus({preventScroll: true})")
    ways = ["skip", "theme", "other", "ruler", "row-name", "event segment", "prompt", "chip"]
    assert stops[: len(ways)] == ways
    names = tab.js("""[...document.querySelectorAll("button, input, select, textarea, video, [role=slider]")]
        .filter((node) => node.checkVisibility() && !(node.ariaLabel || node.textContent.trim() || node.labels?.length
            || node.hasAttribute("aria-labelledby"))).map((node) => node.outerHTML)""")
    assert names == []


def test_arrows_walk_over_events_and_enter_seeks(tab: Tab, clip: Path) -> None:
    asked(tab, clip)
    tab.js("document.querySelector('.segment').focus()")
    tab.press("ArrowRight")
    assert tab.js("document.activeElement.ariaLabel").startswith("14.5 – 18.0 s · it leaves")
    tab.press("Enter")
    tab.until("document.querySelector('#player').currentTime === 14.5")
    assert tab.js("document.activeElement.ariaLabel").startswith("14.5 – 18.0 s")  # drawn anew, it keeps the focus
    tab.js("document.querySelector('.ruler').focus()")
    tab.press("ArrowLeft")
    tab.press("ArrowRight", shift=True)
    tab.until("Math.abs(document.querySelector('#player').currentTime - 13.6) < 0.001")
    assert tab.js("document.querySelector('.ruler').ariaValueText") == "13.6 s"
    tab.press("Home")
    tab.until("document.querySelector('#player').currentTime === 0")


CONTRAST = """() => {
  const numbers = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour.length === 3) return colour;
    }
  };
  return Object.fromEntries(["h1", "#model", "#theme", "#asked", ".when", ".what", ".sure", "#send", "#timings",
    ".row-name", ".tick", ".chip", "#problem p"].map((selector) => {
      const node = document.querySelector(selector);
      const [a, b] = [light(numbers(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
      return [selector, (a + 0.05) / (b + 0.05)];
    }));
}"""


def test_light_and_dark_are_readable(tab: Tab, script: Script, clip: Path) -> None:
    asked(tab, clip)
    script.refusals.append((400, {}, {"error": {"message": "no"}}))
    ask(tab, "refused")
    tab.until("!document.querySelector('#problem').hidden")
    tab.click(".row-name")
    grounds = {}
    for scheme in ("light", "dark"):
        tab.prefer(scheme)
        grounds[scheme] = tab.js("getComputedStyle(document.body).backgroundColor")
        assert {name: ratio for name, ratio in tab.js(f"({CONTRAST})()").items() if ratio < 4.5} == {}
    assert grounds == {"light": "rgb(244, 246, 248)", "dark": "rgb(15, 18, 22)"}
    tab.click("#theme")  # from the system's choice to light, whatever the system has
    assert tab.js("getComputedStyle(document.body).backgroundColor") == grounds["light"]
    tab.click("#theme")
    tab.prefer("light")
    assert tab.js("getComputedStyle(document.body).backgroundColor") == grounds["dark"]
    assert tab.text("#theme") == "Colours: dark" and tab.js("localStorage['timeexpert.theme']") == "dark"


def test_a_phone_needs_no_sideways_scrolling(tab: Tab, script: Script, clip: Path) -> None:
    tab.size(360, 740, mobile=True)
    assert tab.js("document.documentElement.scrollWidth") == 360
    script.answers[PROMPT]["events"].append(event(1.0, 1.5, "averylongwordwithoutanyspace" * 8))
    script.answers[PROMPT]["experts"] = {"layers": [[1 / 64] * 64] * 28, "tokens": {}}
    asked(tab, clip)
    tab.hover(".segment", 2)
    assert tab.js("document.documentElement.scrollWidth") == 360
    wide = tab.js("""[...document.querySelectorAll("body *")].filter((node) => node.checkVisibility()
        && node.getBoundingClientRect().right > 360.5 && !node.closest(".segment, .unseen"))
        .map((node) => node.outerHTML)""")
    assert wide == []


# -- what goes wrong


def test_a_busy_server_is_asked_again_when_the_user_says_so(tab: Tab, script: Script, clip: Path) -> None:
    tab.choose("#file", [clip])
    tab.until("document.querySelector('#upload').textContent === 'uploaded'")
    script.refusals.append(BUSY)
    ask(tab, PROMPT)
    tab.until("!document.querySelector('#problem').hidden")
    assert "16 questions wait already." in tab.text("#problem") and "asks to wait" in tab.text("#problem")
    tab.click("#problem button")
    tab.until("document.querySelectorAll('.segment').length === 2")
    assert tab.text("#problem") == ""


def test_a_refused_upload_can_be_sent_again(tab: Tab, script: Script, clip: Path) -> None:
    script.refusals.append((413, {}, {"error": {"message": "the file has 9 bytes too many."}}))
    tab.choose("#file", [clip])
    tab.until("document.querySelector('#problem').textContent.includes('9 bytes too many')")
    ask(tab, PROMPT)
    tab.until("document.querySelectorAll('.segment').length === 2")
    assert list(script.files) == ["file-1"]


def test_an_upload_that_expired_is_sent_again(tab: Tab, script: Script, clip: Path) -> None:
    asked(tab, clip)
    script.refusals.append((404, {}, {"error": {"message": "no such file."}}))
    ask(tab, "again")
    tab.until("document.querySelectorAll('#timeline .row').length === 2")
    assert [row["messages"][0]["content"][0]["video_url"]["url"] for row in script.asked] == ["file-1", "file-2"]


@pytest.mark.parametrize(
    ("refusal", "words", "retry"),
    [
        ((400, {}, {"error": {"message": f"the video: {MARKUP}"}}), MARKUP, 0),
        ((502, {}, f"{MARKUP} a proxy's page"), "The server answered with status 502.", 1),
    ],
)
def test_a_refusal_is_shown_in_the_servers_words(
    tab: Tab, script: Script, clip: Path, refusal: tuple[int, dict[str, str], object], words: str, retry: int
) -> None:
    tab.choose("#file", [clip])
    tab.until("document.querySelector('#upload').textContent === 'uploaded'")
    script.refusals.append(refusal)
    ask(tab, PROMPT)
    tab.until("!document.querySelector('#problem').hidden")
    assert words in tab.text("#problem") and tab.js("document.querySelectorAll('#problem button').length") == retry
    assert tab.js("document.querySelector('#problem img')") is None


def test_a_lost_connection_is_said(tab: Tab, script: Script, clip: Path) -> None:
    tab.choose("#file", [clip])
    script.breaks = "stream"
    ask(tab, PROMPT)
    tab.until("document.querySelector('#problem').textContent.includes('The answer broke off')")
    script.breaks = "connection"
    tab.click("#problem button")
    tab.until("document.querySelector('#problem').textContent.includes('The connection to the server was lost.')")
    script.breaks = ""
    tab.click("#problem button")
    tab.until("document.querySelectorAll('.segment').length === 2")
    assert tab.text("#problem") == ""


def test_a_key_is_asked_for_and_sent(tab: Tab, script: Script, clip: Path) -> None:
    script.key = "secret"
    tab.call("Page.reload")
    tab.until("document.activeElement.id === 'key'")
    tab.write("secret")
    tab.press("Enter")
    tab.until("document.querySelectorAll('#sample-list button').length")
    asked(tab, clip)
    tab.click("#other")
    tab.click("#sample-list button")
    tab.until("document.querySelector('#video-name').textContent === 'Sample sample-field'")
    tab.until("document.querySelector('#player').readyState > 0")
    assert tab.js("document.querySelector('#player').src").startswith("blob:")
    assert tab.js("JSON.stringify(localStorage)").find("secret") == -1


# -- text stays text


def test_markup_in_names_questions_and_captions_stays_text(tab: Tab, script: Script, clip: Path) -> None:
    hostile = clip.with_name("<img src=x onerror=document.title='owned'>.mp4")
    hostile.write_bytes(clip.read_bytes())
    sure = {"start": 0.5, MARKUP: 0.5}
    script.answers[MARKUP] = answer(
        event(1, 2, MARKUP, **sure), video_damage=MARKUP, problems=[{"position": 0, "reason": MARKUP}]
    )
    script.answers[MARKUP]["experts"] = {"layers": [[1.0]], "tokens": {MARKUP: [1.0]}}
    script.pieces[MARKUP] = [MARKUP]
    asked(tab, hostile, MARKUP)
    tab.hover(".segment")
    assert tab.text("#tip").startswith(f"1.0 – 2.0 s · {MARKUP}") and tab.text("#asked") == MARKUP
    assert tab.text("#video-name") == hostile.name and MARKUP in tab.text("#notes")
    tab.call("Page.reload")
    tab.until("document.querySelectorAll('#history-list button').length === 1")
    assert MARKUP in tab.text("#history-list")
    tab.click("#history-list button")
    tab.until("document.querySelector('#player').readyState > 0")
    assert (
        tab.js("document.querySelectorAll('img, body script').length") == 0 and tab.js("document.title") == "TimeExpert"
    )
