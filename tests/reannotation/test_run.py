"""A run as a whole: nothing is lost, every change has its reason, a killed run goes on, bad input is named."""

import base64
import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from scripts.check_filters import join
from tests.data.chat_server import completion, serving
from tests.data.filters.test_timing import scene
from tests.data.media import question, read_rows, write_lines
from timeexpert.cli import main
from timeexpert.config import load
from timeexpert.data.synthetic import encode
from timeexpert.errors import UserError
from timeexpert.reannotation import ReannotateConfig, reannotate
from timeexpert.reannotation.checkpoint import groups_of
from timeexpert.reannotation.run import ReannotateError
from timeexpert.tokenization import Event, EventSequence

ROOT = Path(__file__).resolve().parents[2]

# Stops for good once two answers are kept.
STOPS_AFTER_TWO = """
import json, sys, time
from timeexpert.config import load
from timeexpert.reannotation import ReannotateConfig, reannotate
def progress(done, total, what):
    if what == "asking the model" and done == 2:
        print("two", flush=True)
        time.sleep(600)
if __name__ == "__main__":
    samples, media, out, *settings = sys.argv[1:]
    reannotate(samples, media, out, load(ReannotateConfig, None, settings), progress=progress)
"""


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """cut.mp4: 12 s with one cut, at 6 s. still.mp4: 12 s without any. text.mp4 is no video."""
    folder = tmp_path_factory.mktemp("media")
    join(scene((2.0, 9.0)), scene((1.0, 8.0), seed=8), 60, folder / "cut.mp4")
    encode(scene(), folder / "still.mp4")
    (folder / "text.mp4").write_text("not a video")
    return folder


def dense(id, video, *spans, **fields):
    """A dense captioning line; its events are called a, b, c ..."""
    events = [{"start_s": s, "end_s": e, "scores": [], "text": "abcdefgh"[i]} for i, (s, e) in enumerate(spans)]
    row = {"task": "dense_captioning", "events": events, "duration_s": None, "source": "", "meta": {}}
    return question(id, video, **(row | fields))


def config(*overrides):
    return load(ReannotateConfig, None, list(overrides))


def merge_first_two(number, request):
    """A model that takes the first two of three or more events for one."""
    content = request["messages"][1]["content"]
    rows = json.loads(content if isinstance(content, str) else content[0]["text"])
    kept = [{"from": [row["id"]]} for row in rows]
    if len(rows) > 2:
        kept[:2] = [{"from": [1, 2], "text": rows[0]["text"] + " and " + rows[1]["text"]}]
    return completion(json.dumps(kept))


def settings_for(chat, *more):
    endpoint = "grouping.endpoint."
    return config(f"{endpoint}base_url={chat.base_url}", f"{endpoint}model=tiny", f"{endpoint}backoff_s=0", *more)


def written(out: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in sorted(out.glob("*.jsonl"))}


def test_with_nothing_to_change_the_lines_come_out_equal(media, tmp_path):
    rows = [
        dense("b", "still.mp4", (7, 9), (1, 3), (2, 8)),
        dense("a", "still.mp4", (0, 12)),
        question("g", "gone.mp4", task="general", duration_s=None, source="x", meta={"k": 1}),
    ]
    rows[2]["events"] = [{"start_s": None, "end_s": None, "scores": [], "text": "yes"}]
    samples = write_lines(tmp_path / "s.jsonl", rows)
    with serving(lambda n, r: completion(json.dumps([{"from": [1]}]))) as chat:
        report = reannotate(samples, media, tmp_path / "out", settings_for(chat, "grouping.tasks=[]"))
    assert read_rows(tmp_path / "out" / "samples.jsonl") == rows
    assert read_rows(tmp_path / "out" / "changes.jsonl") == []
    assert (report.samples, report.changed_samples, report.clips) == (3, 0, 1)


def test_a_merge_and_a_snap_are_both_kept_with_their_reasons(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", [dense("q", "cut.mp4", (0, 2), (2, 5.8), (7, 9), meta={"k": 1})])
    with serving(merge_first_two) as chat:
        report = reannotate(samples, media, tmp_path / "out", settings_for(chat))
    (row,) = read_rows(tmp_path / "out" / "samples.jsonl")
    assert [(e["start_s"], e["end_s"], e["text"]) for e in row["events"]] == [(0, 6, "a and b"), (7, 9, "c")]
    (change,) = read_rows(tmp_path / "out" / "changes.jsonl")
    assert [step["kind"] for step in change["steps"]] == ["merged", "snapped"]
    assert change["steps"][1]["why"] == "end snapped to the cut at 6.00 s"
    assert [event["text"] for event in change["before"]] == ["a", "b"] and change["sources"] == [0, 1]
    (entry,) = row["meta"]["reannotation"]
    assert row["meta"]["k"] == 1 and len(entry["before"]) == 3 and entry["annotator"] == "endpoint tiny"
    assert entry["changes"] == [{"event": 0, "sources": [0, 1], "steps": change["steps"]}]
    assert (report.rounds, report.unsettled, report.usage["requests"]) == ({"2": 1}, 0, 2)


def test_a_second_re_annotation_keeps_what_the_first_one_wrote(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", [dense("q", "cut.mp4", (0, 5.8))])
    reannotate(samples, media, tmp_path / "one")
    reannotate(tmp_path / "one" / "samples.jsonl", media, tmp_path / "two")
    assert written(tmp_path / "two")["samples.jsonl"] == written(tmp_path / "one")["samples.jsonl"]
    longer = config("refinement.min_length_s=7")
    reannotate(tmp_path / "one" / "samples.jsonl", media, tmp_path / "three", longer)
    (row,) = read_rows(tmp_path / "three" / "samples.jsonl")
    assert [entry["before"][0]["end_s"] for entry in row["meta"]["reannotation"]] == [5.8, 6.0]


def test_what_cannot_be_re_annotated_comes_out_as_it_was_and_is_listed(media, tmp_path):
    rows = [
        dense("text", "text.mp4", (0, 1)),
        dense("gone", "gone.mp4", (0, 1)),
        dense("late", "still.mp4", (13, 14)),
        dense("untimed", "still.mp4", (0, 1)),
        {**dense("taken", "still.mp4", (0, 1)), "meta": {"reannotation": "mine"}},
    ]
    rows[3]["events"][0].update(start_s=None, end_s=None)
    samples = write_lines(tmp_path / "s.jsonl", [*rows, dense("text", "still.mp4", (0, 1)), "{not json"])
    report = reannotate(samples, media, tmp_path / "out")
    assert read_rows(tmp_path / "out" / "samples.jsonl") == rows
    listed = {row["id"]: row["kind"] for row in read_rows(tmp_path / "out" / "untouched.jsonl")}
    assert listed == {
        "text": "unreadable clip",
        "gone": "unreadable clip",
        "late": "past the end",
        "untimed": "events without times",
        "taken": "meta is taken",
    }
    assert [r["fault"] for r in read_rows(tmp_path / "out" / "dropped-input.jsonl")] == ["duplicate id", "bad line"]
    assert (report.samples, report.bad_input) == (7, 2)


def test_an_answer_that_does_not_parse_changes_nothing_and_is_counted_and_asked_again_later(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", [dense("q", "still.mp4", (0, 2), (2, 4), (5, 6))])
    with serving(lambda n, r: completion("I would merge them.") if n == 0 else merge_first_two(n, r)) as chat:
        first = reannotate(samples, media, tmp_path / "out", settings_for(chat))
        assert read_rows(tmp_path / "out" / "samples.jsonl") == read_rows(samples)
        second = reannotate(samples, media, tmp_path / "out", settings_for(chat))
    assert first.untouched == {"answer refused: not the form asked for": 1} and second.untouched == {}
    assert second.events_after == 2


def test_frames_are_sent_when_asked_for_and_each_clip_is_decoded_once(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", [dense("q", "cut.mp4", (0, 2), (2, 5.8))])
    with serving(merge_first_two) as chat:
        settings = settings_for(chat, "grouping.frames=3", "grouping.frame_height=48")
        assert reannotate(samples, media, tmp_path / "out", settings).decoded_now == 1
        again = reannotate(samples, media, tmp_path / "out", settings)
    text, *parts = chat.requests[0]["messages"][1]["content"]
    assert text["type"] == "text" and [p["text"] for p in parts[::2]] == [f"frame at {t:.2f} s" for t in (2, 6, 10)]
    head, data = parts[1]["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64" and Image.open(BytesIO(base64.b64decode(data))).size == (60, 48)
    assert (again.decoded_now, again.usage["requests"], again.usage["from_cache"]) == (0, 0, 1)


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(media, tmp_path):
    rows = [dense(f"q{i}", "cut.mp4", (0, 1), (1, 2 + i / 10), (4, 5.8)) for i in range(6)]
    samples = write_lines(tmp_path / "s.jsonl", rows)
    (tmp_path / "script.py").write_text(STOPS_AFTER_TWO)
    with serving(merge_first_two) as chat:
        words = ["base_url=" + chat.base_url, "model=tiny", "concurrency=1"]
        settings = ["grouping.endpoint." + word for word in words]
        command = [sys.executable, str(tmp_path / "script.py"), str(samples), str(media), str(tmp_path / "out")]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen([*command, *settings], stdout=subprocess.PIPE, env=env) as process:
            assert process.stdout.readline() == b"two\n"
            with pytest.raises(ReannotateError, match="another run is writing here"):
                reannotate(samples, media, tmp_path / "out")
            process.kill()
        assert not (tmp_path / "out" / "samples.jsonl").exists()
        resumed = reannotate(samples, media, tmp_path / "out", config(*settings))
        reannotate(samples, media, tmp_path / "unbroken", config(*settings))
    assert resumed.decoded_now == 0 and resumed.usage["from_cache"] >= 2
    assert written(tmp_path / "out") == written(tmp_path / "unbroken")
    assert len(written(tmp_path / "out")["changes.jsonl"].splitlines()) == 12


def test_bad_inputs_are_named(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", [dense("q", "cut.mp4", (0, 1))])
    with pytest.raises(ReannotateError, match=r"no.jsonl: no such file"):
        reannotate(tmp_path / "no.jsonl", media, tmp_path / "out")
    with pytest.raises(ReannotateError, match="no such folder. --media is the folder"):
        reannotate(samples, tmp_path / "no", tmp_path / "out")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    with pytest.raises(ReannotateError, match="holds thesis.tex, which no re-annotation wrote"):
        reannotate(samples, media, tmp_path / "foreign")
    with pytest.raises(UserError, match=r"grouping: tasks: answers of general have no segments"):
        config("grouping.tasks=[general]")
    with pytest.raises(UserError, match=r"refinement: snap_s \(-1.0\) must not be negative"):
        config("refinement.snap_s=-1")
    with pytest.raises(UserError, match="endpoint and checkpoint are both given"):
        config("grouping.endpoint={base_url: 'http://x/v1', model: m}", "grouping.checkpoint=runs/x")


def test_cuts_of_a_real_clip_take_the_boundaries_that_a_person_noted_beside_them(shared, tmp_path):
    """Cuts of this clip are known to two frames (0.07 s); the events given are 0.2 s off to either side."""
    noted_s = [0.0, 2.567, 4.667, 8.3, 9.867, 11.8, 13.5, 15.7]
    spans = [(a and a + 0.2, b + 0.2) for a, b in zip(noted_s, noted_s[1:], strict=False)]
    rows = [{**dense("q", "asl_mix_a.mp4", *spans), "task": "action_segmentation"}]
    reannotate(write_lines(tmp_path / "s.jsonl", rows), shared / "videos", tmp_path / "out")
    (row,) = read_rows(tmp_path / "out" / "samples.jsonl")
    assert [event["end_s"] for event in row["events"]] == pytest.approx(noted_s[1:], abs=0.07)
    assert [e["start_s"] for e in row["events"][1:]] == [e["end_s"] for e in row["events"][:-1]]


# --- a checkpoint as the annotator ------------------------------------------------------------------------------


def test_groups_are_read_off_overlaps():
    events = [Event(0, 2, (), "a"), Event(2, 4, (), "b"), Event(5, 9, (), "c"), Event(9, 10, (), "d")]
    told = EventSequence(
        (Event(0, 3.9, (), "ab"), Event(4.8, 7, (), "c1"), Event(7, 9, (), "c2"), Event(9, 11, (), "x"))
    )
    groups = groups_of(told, events)
    assert [(g.sources, g.text, g.span) for g in groups] == [
        ((0, 1), "ab", None),
        ((2,), "c1", (5, 7)),
        ((2,), "c2", (7, 9)),
        ((3,), "", None),
    ]
    assert groups_of(EventSequence((Event(20, 30, (), "x"),)), events).kind == "not among the events"


def test_a_checkpoint_is_asked_once_and_its_answers_are_held_to_the_same_rules(media, tmp_path):
    samples = write_lines(tmp_path / "s.jsonl", [dense("q", "cut.mp4", (0, 2), (2, 5.8), (7, 9))])
    settings = config(f"grouping.checkpoint={ROOT / 'checkpoints' / 'tiny'}", "grouping.device=cpu")
    first = reannotate(samples, media, tmp_path / "out", settings)
    answers = tmp_path / "out" / "cache" / "answers.jsonl"
    kept, outcome = answers.read_bytes(), written(tmp_path / "out")
    assert len(kept.splitlines()) == sum(int(n) * count for n, count in first.rounds.items()) >= 1
    assert first.annotator == "checkpoint tiny"
    reannotate(samples, media, tmp_path / "out", settings)
    assert answers.read_bytes() == kept and written(tmp_path / "out") == outcome


# --- the command and its page -----------------------------------------------------------------------------------


def test_the_command_writes_a_page_with_frames_and_harmless_texts(media, tmp_path, capsys):
    row = dense("<b>q</b>", "cut.mp4", (0, 5.8), (7, 9))
    row["events"][0]["text"] = "<script>alert(1)</script>"
    samples = write_lines(tmp_path / "s.jsonl", [row])
    assert main(["data", "reannotate", str(samples), "--media", str(media), "-o", str(tmp_path / "out")]) == 0
    assert "1 of 1 samples changed" in capsys.readouterr().out
    page = (tmp_path / "out" / "reannotate.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "<b>q</b>" not in page
    assert "end snapped to the cut at 6.00 s" in page and page.count("data:image/jpeg;base64,") == 2
    assert page.count('class="bar was"') == 2 and page.count('class="bar new"') == page.count('class="bar same"') == 1


def test_the_command_says_what_it_needs(tmp_path, capsys):
    assert main(["data", "reannotate", "s.jsonl", "-o", str(tmp_path)]) != 0
    assert "data reannotate needs --media DIR, the folder for the clips." in capsys.readouterr().err
    assert main(["data", "reannotate", "s.jsonl", "--print-config", "refinement.snap_s=0.25"]) == 0
    assert "snap_s: 0.25" in capsys.readouterr().out
