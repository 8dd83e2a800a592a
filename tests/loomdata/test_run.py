"""The pipeline as a whole: nothing is asked twice, nothing is lost, what fails is named, people have the last word."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.chat_server import completion, serving
from tests.data.media import read_rows
from timeexpert.cli import main
from timeexpert.data.endpoint import EndpointError
from timeexpert.data.records import Sample
from timeexpert.data.shards import ShardDataset
from timeexpert.errors import UserError
from timeexpert.loomdata import Adapters, annotate
from timeexpert.loomdata.actions import Range
from timeexpert.loomdata.asking import Refused
from timeexpert.loomdata.review import decide, reviews
from timeexpert.loomdata.run import AnnotateError

from .people import FollowsRed, SeesRed, adapters, settings, write_shots
from .stand_in import PHRASE, annotator, last_id, pictures_of

pytest.importorskip("scenedetect")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """one.mp4: 16 s, four shots, nobody in the second. two.mp4: 14 s, one shot. text.mp4 is no video."""
    folder = tmp_path_factory.mktemp("media")
    write_shots(folder / "one.mp4")
    write_shots(folder / "two.mp4", [(14, True)])
    (folder / "text.mp4").write_text("not a video")
    return folder


def run(media, out, chat, *more, **fields):
    return annotate(media, out, settings(chat.base_url, *more), adapters=adapters(), **fields)


def left_out(out):
    return {(row["video"], row["step"], row["kind"]): row["reason"] for row in read_rows(out / "left-out.jsonl")}


def step(out, video, name):
    (path,) = out.glob(f"videos/{video}-*/{name}.json")
    return json.loads(path.read_text())["result"]


def stored(shards):
    dataset = ShardDataset(shards)
    samples = [dataset.sample(i) for i in range(len(dataset))]
    dataset.close()
    return samples


def accept_all(out, rounds=(1, 2)):
    for number in rounds:
        for review in list(reviews(out / "videos")):
            for item in review.items(number):
                decide(out / "videos", review.key, review.tracks, number, item.shot, "accept")


def test_videos_become_samples_with_times_and_masks(media, tmp_path):
    with serving(annotator) as chat:
        report = run(media, tmp_path, chat, "verify=false")
    assert (report.videos, report.annotated, report.stretches) == (3, 2, 3)
    assert [shot[0] for shot in step(tmp_path, "one", "shots")["shots"]] == [0, 4, 6, 13]
    assert step(tmp_path, "one", "person")["shot"] == 2 and step(tmp_path, "one", "find")["missing"] == [0, 1]
    assert list(step(tmp_path, "one", "find")["boxes"]) == ["0"]  # nobody is in shot 1
    assert step(tmp_path, "one", "fill")["tracklets"] == [0, 2, 3]

    rows = read_rows(tmp_path / "samples.jsonl")
    samples = [Sample.from_json(row) for row in rows if row["video"] == "one.mp4"]
    spans = [(s.task, s.events[0].start_s, s.events[0].end_s, s.events[0].text) for s in samples]
    assert spans == [
        ("moment_retrieval", 0, 4, "The person does it."),
        ("referring_segmentation", 0, 4, "The person does it."),
        ("moment_retrieval", 6, 16, "The person does it."),
        ("referring_segmentation", 6, 16, "The person does it."),
    ]
    first, masks = samples[:2]
    assert first.tracks == () and "'The person does it'" in first.prompt and first.duration_s == 16
    (track,) = masks.tracks
    assert track.size == (96, 128) and track.times_s[:3] == pytest.approx((0, 0.2, 0.5)) and len(track.times_s) == 64
    assert [i for i, rle in enumerate(track.rles) if rle is None] == list(range(16, 24))  # nobody from 4 to 6 s
    expected = np.zeros((96, 128), bool)
    expected[40:64, 8:32] = True
    assert (track.mask(0) ^ expected).mean() < 0.01
    assert first.meta["loomdata"]["description"] == PHRASE and first.meta["loomdata"]["verified"] is False
    two = [row["events"][0] for row in rows if row["video"] == "two.mp4"]
    assert [(e["start_s"], e["end_s"]) for e in two] == [(0, 6.5)] * 2 + [(6.5, 14)] * 2

    reason = left_out(tmp_path)["text.mp4", "shots", "unreadable video"]
    assert "text.mp4" in reason and report.left_out == {"unreadable video": 1}
    kept = stored(tmp_path / "shards")
    assert sorted(s.id for s in kept) == sorted(row["id"] for row in rows)
    assert report.shards == 1 and [s.tracks for s in kept if s.id == masks.id] == [masks.tracks]


def test_every_cost_is_written_down_and_the_second_run_has_none(media, tmp_path):
    with serving(annotator) as chat:
        first = run(media, tmp_path, chat, "verify=false")
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.json*") if path.name != "annotate.json"}
        second = run(media, tmp_path, chat, "verify=false")
        assert len(chat.requests) == 5  # two descriptions, three stretches
    assert {path: path.read_bytes() for path in before} == before | {
        tmp_path / "cost.jsonl": (tmp_path / "cost.jsonl").read_bytes()
    }
    cost = first.cost
    assert cost["shots"]["frames"] == 160 + 140 and cost["shots"]["refused"] == 1
    assert (cost["description"]["requests"], cost["description"]["prompt_tokens"]) == (2, 200)
    assert (cost["actions"]["requests"], cost["actions"]["completion_tokens"]) == (3, 30)
    assert cost["actions"]["frames"] == 8 + 20 + 28 and cost["find"]["frames"] == 2
    assert cost["actions"]["without_usage"] == 0
    assert all(row["seconds"] > 0 for row in cost.values())
    for name, row in second.cost.items():  # only the file that cannot be read is tried again
        again = (row["videos"], row["frames"], row["requests"])
        more = (1, 0, 0) if name == "shots" else (0, 0, 0)
        assert again == tuple(
            cost[name][key] + m for key, m in zip(("videos", "frames", "requests"), more, strict=True)
        )


def test_another_setting_repeats_its_step_and_those_after_it_alone(media, tmp_path):
    with serving(annotator) as chat:
        run(media, tmp_path, chat, "verify=false")
        before = len(read_rows(tmp_path / "cost.jsonl"))
        run(media, tmp_path, chat, "verify=false", "actions.min_frames=12")
        assert [last_id(request) for request in chat.requests].count(None) == 2
        assert len(chat.requests) == 5 + 3
    again = dict.fromkeys(row["step"] for row in read_rows(tmp_path / "cost.jsonl")[before:])
    assert list(again) == ["shots", "actions"]  # shots: text.mp4


def test_questions_are_asked_in_the_words_of_a_file(media, tmp_path):
    (tmp_path / "own.yaml").write_text("extends: data/instructions\nreferring_segmentation: ['Mark {query} here.']\n")
    with serving(annotator) as chat:
        run(media, tmp_path / "out", chat, "verify=false", f"instructions={tmp_path / 'own.yaml'}")
        rows = read_rows(tmp_path / "out" / "samples.jsonl")
        masks = [row["prompt"] for row in rows if row["task"] == "referring_segmentation"]
        assert len(masks) == 4 and all(p.startswith("Mark The person") and p.endswith(" here.") for p in masks)
        asked = len(chat.requests)
        (tmp_path / "own.yaml").write_text("extends: data/instructions\nreferring_segmentation: [Mark it.]\n")
        with pytest.raises(UserError, match=r"own.yaml.*referring_segmentation\[0\] \('Mark it.'\) holds \{query\} 0"):
            run(media, tmp_path / "out", chat, "verify=false", f"instructions={tmp_path / 'own.yaml'}")
        assert len(chat.requests) == asked and read_rows(tmp_path / "out" / "samples.jsonl") == rows


# --- people -----------------------------------------------------------------------------------------------------


def test_nothing_goes_on_before_people_verified_it(media, tmp_path):
    with serving(annotator) as chat:
        report = run(media, tmp_path, chat)
        assert (report.waiting, report.samples, report.shards) == (2, 0, 0)
        assert all(last_id(request) is None for request in chat.requests)
        accept_all(tmp_path, rounds=[1])
        assert run(media, tmp_path, chat).waiting == 2
        accept_all(tmp_path)
        report = run(media, tmp_path, chat)
        assert (report.waiting, report.annotated, report.samples, report.shards) == (0, 2, 8, 1)
        assert {row["meta"]["loomdata"]["verified"] for row in read_rows(tmp_path / "samples.jsonl")} == {True}
        _, two = reviews(tmp_path / "videos")
        decide(tmp_path / "videos", two.key, two.tracks, 2, 0, None)
        report = run(media, tmp_path, chat)
    assert (report.waiting, report.samples, report.shards) == (1, 4, 0)
    assert not (tmp_path / "shards").exists()  # they held the samples of both videos


def test_a_video_that_other_settings_leave_out_is_not_asked_about(media, tmp_path):
    with serving(annotator) as chat:
        run(media, tmp_path, chat)
        run(media, tmp_path, chat, "shots.max_shots=2")
        assert {video for video, step, kind in left_out(tmp_path) if kind == "too many shots"} == {"one.mp4"}
        assert [review.video for review in reviews(tmp_path / "videos")] == ["two.mp4"]
        run(media, tmp_path, chat)
    assert [review.video for review in reviews(tmp_path / "videos")] == ["one.mp4", "two.mp4"]


def test_a_removed_mask_splits_a_stretch_and_a_rejected_video_is_dropped(media, tmp_path):
    with serving(annotator) as chat:
        run(media, tmp_path, chat)
        accept_all(tmp_path)
        one, two = reviews(tmp_path / "videos")
        decide(tmp_path / "videos", one.key, one.tracks, 2, 2, "remove")
        decide(tmp_path / "videos", two.key, two.tracks, 2, 0, "reject")
        report = run(media, tmp_path, chat)
        assert (report.rejected, report.annotated) == (1, 1)
        spans = {(r["events"][0]["start_s"], r["events"][0]["end_s"]) for r in read_rows(tmp_path / "samples.jsonl")}
        assert spans == {(0, 4), (13, 16)}
        assert left_out(tmp_path)["two.mp4", "verify", "rejected"] == "rejected by people."
        decide(tmp_path / "videos", one.key, one.tracks, 2, 2, "accept")  # taken back: the shards are made anew
        assert run(media, tmp_path, chat).samples == 4
    assert len(stored(tmp_path / "shards")) == 4


@pytest.mark.parametrize(("decision", "kind"), [("reject", "rejected"), ("remove", "decided meanwhile")])
def test_what_people_decide_while_a_run_is_under_way_holds_for_it(media, tmp_path, decision, kind):
    def decided(number, request):
        two = next((r for r in reviews(tmp_path / "videos") if r.video == "two.mp4"), None)
        if last_id(request) is not None and two.decisions[2][0] == "accept":
            decide(tmp_path / "videos", two.key, two.tracks, 2, 0, decision)
        return annotator(number, request)

    with serving(decided) as chat:
        run(media, tmp_path, chat)
        accept_all(tmp_path)
        run(media, tmp_path, chat)
        assert ("two.mp4", "verify", kind) in left_out(tmp_path)
        assert {row["video"] for row in read_rows(tmp_path / "samples.jsonl")} == {"one.mp4"}
        again = run(media, tmp_path, chat)
    assert again.waiting == 0 and {row["video"] for row in read_rows(tmp_path / "samples.jsonl")} == {"one.mp4"}


@pytest.mark.parametrize(
    ("flag", "rule"), [("--workers", "workers (0) must be >= 1"), ("--timeout-s", "timeout_s (0.0) must be > 0")]
)
def test_workers_and_time_are_checked_before_anything_is_made(media, tmp_path, capsys, flag, rule):
    settings = ["endpoint.base_url=http://127.0.0.1:9/v1", "endpoint.model=m"]
    assert main(["annotate", str(media), *settings, "-o", str(tmp_path / "out"), flag, "0"]) == 2
    assert rule in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_output_folder_is_named(media, tmp_path):
    (tmp_path / "taken").write_text("")
    with serving(annotator) as chat, pytest.raises(AnnotateError, match="taken: cannot be written: File exists"):
        run(media, tmp_path / "taken", chat)


# --- endpoints that misbehave -----------------------------------------------------------------------------------


def test_nonsense_goes_back_with_its_fault_until_the_answer_is_good(media, tmp_path):
    def clumsy(number, request):
        if len(request["messages"]) == 1:
            return completion("Sure!\nHere it is." if last_id(request) is None else "He walks, then he sits.")
        if len(request["messages"]) == 3 and last_id(request) == 27:
            return completion("from 0 to 12: He walks.\nfrom 12 to 27: He sits.")
        return annotator(number, request)

    with serving(clumsy) as chat:
        report = run(media, tmp_path, chat, "verify=false")
        faults = [request["messages"][-1]["content"] for request in chat.requests if len(request["messages"]) == 5]
    assert report.samples == 8 and report.left_out == {"unreadable video": 1}
    assert faults == [
        "This answer cannot be used: line 2 (from 12 to 27) overlaps the line before it: it must begin at 13. "
        "Answer again, in the form asked for."
    ]
    assert report.cost["description"]["requests"] == 4 and report.cost["actions"]["requests"] == 7


def test_a_stretch_without_a_usable_answer_is_left_out_and_asked_about_again_later(media, tmp_path):
    def stubborn(number, request):
        return completion("No.") if last_id(request) == 7 else annotator(number, request)

    with serving(stubborn) as chat:
        report = run(media, tmp_path, chat, "verify=false", "actions.attempts=2")
        assert report.samples == 6 and report.left_out == {"unreadable video": 1, "not the form asked for": 1}
        reason = left_out(tmp_path)["one.mp4", "actions", "not the form asked for"]
        assert reason.startswith("asked 2 times; the last answer: line 1 ('No.') must be like")
        before = len(chat.requests)
        chat.reply = annotator
        report = run(media, tmp_path, chat, "verify=false", "actions.attempts=2")
        assert len(chat.requests) == before + 1 and report.samples == 8  # the other stretches are not paid for again


def test_rate_limits_failures_and_silence_are_retried_and_counted(media, tmp_path):
    seen = set()

    def unwell(number, request):
        key = json.dumps(request)
        if key not in seen:
            seen.add(key)
            failure = (429, {"Retry-After": "0"}), (500, {}), (200, {"X-Trickle-S": "3"})
            status, headers = failure[len(seen) % 3]
            return status, dict(headers), b'{"choices": [{"mess' if status == 200 else b"slow down"
        return annotator(number, request)

    with serving(unwell) as chat:
        report = run(media, tmp_path, chat, "verify=false", "endpoint.timeout_s=6")
    assert report.samples == 8
    assert report.cost["description"]["retries"] >= 2 and report.cost["actions"]["retries"] >= 3
    assert report.cost["description"]["failed"] == report.cost["actions"]["failed"] == 0


def test_a_dead_endpoint_ends_the_run_and_what_was_found_is_kept(media, tmp_path):
    with serving(lambda n, r: annotator(n, r) if last_id(r) is None else (503, {}, b"away")) as chat:
        words = ("verify=false", "endpoint.retries=1", "endpoint.max_consecutive_failures=2")
        with pytest.raises(EndpointError, match="2 requests in a row without an answer.*Answers so far are kept"):
            run(media, tmp_path, chat, *words)
        assert not (tmp_path / "samples.jsonl").exists() and not list(tmp_path.rglob("*.tmp"))
        asked = len(chat.requests)
        chat.reply = annotator
        report = run(media, tmp_path, chat, *words)
    assert report.samples == 8 and len(chat.requests) == asked + 3 and report.cost["actions"]["retries"] >= 2


STOPS = """
import sys, time
from tests.loomdata.people import adapters, settings
from timeexpert.loomdata import Adapters, annotate
def progress(done, total, what):
    if what == sys.argv[4] and done == 1:
        print("one", flush=True)
        time.sleep(600)
if __name__ == "__main__":
    annotate(sys.argv[1], sys.argv[2], settings(sys.argv[3], "verify=false", "endpoint.concurrency=1"),
             adapters=adapters(), progress=progress)
"""


@pytest.mark.parametrize("what", [pytest.param("track", marks=pytest.mark.slow), "actions"])
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(media, tmp_path, what):
    (tmp_path / "script.py").write_text(STOPS)
    out, unbroken = tmp_path / "out", tmp_path / "unbroken"
    with serving(annotator) as chat:
        command = [sys.executable, str(tmp_path / "script.py"), str(media), str(out), chat.base_url, what]
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as process:
            assert process.stdout.readline() == b"one\n"
            with pytest.raises(AnnotateError, match="another annotation is writing here"):
                run(media, out, chat, "verify=false")
            process.kill()
        assert not (out / "samples.jsonl").exists()
        resumed = run(media, out, chat, "verify=false", "endpoint.concurrency=1")
        assert resumed.cost["description"]["requests"] <= 2
        run(media, unbroken, chat, "verify=false", "endpoint.concurrency=1")
    for name in ("samples.jsonl", "left-out.jsonl"):
        assert (out / name).read_bytes() == (unbroken / name).read_bytes()


# --- videos that give nothing, and bad input --------------------------------------------------------------------


def test_videos_that_give_nothing_are_named_with_the_reason(tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    write_shots(media / "nobody.mp4", [(3, False)])
    write_shots(media / "many.mp4", [(2, True)] * 4)
    with serving(annotator) as chat:
        report = run(media, tmp_path / "out", chat, "shots.max_shots=3")
        assert chat.requests == [] and report.samples == report.waiting == 0
        assert main(["annotate", str(media), "-o", str(tmp_path / "o"), f"endpoint.base_url={chat.base_url}"]) == 2
    assert left_out(tmp_path / "out") == {
        ("many.mp4", "shots", "too many shots"): "4 shots; shots.max_shots is 3.",
        ("nobody.mp4", "person", "no person"): (
            "the best box has a score of 0.10 for 'person' at 1.50 s; person.min_score is 0.35."
        ),
    }


def test_a_stretch_with_too_many_frames_is_left_out(media, tmp_path):
    with serving(annotator) as chat:
        report = run(media, tmp_path, chat, "verify=false", "actions.max_frames=20")
    assert left_out(tmp_path)["two.mp4", "actions", "stretch too long"] == (
        "28 numbered frames; actions.max_frames is 20."
    )
    assert report.samples == 4


def test_bad_inputs_are_named(media, tmp_path, capsys):
    good = settings("http://localhost:1/v1")
    with pytest.raises(AnnotateError, match="no such folder or file. Give a folder of videos"):
        annotate(tmp_path / "no", tmp_path / "out", good)
    with pytest.raises(AnnotateError, match="holds no video"):
        annotate(tmp_path, tmp_path / "out", good)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    with pytest.raises(AnnotateError, match="holds thesis.tex, which no annotation wrote"):
        annotate(media, tmp_path / "foreign", good)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"person.model \('.*empty'\): AutoProcessor cannot be read from it"):
        annotate(media, tmp_path / "model", settings("http://localhost:1/v1", f"person.model={tmp_path / 'empty'}"))
    assert main(["annotate", str(media), "-o", str(tmp_path / "x")]) == 2
    assert "endpoint is not set" in capsys.readouterr().err
    assert main(["annotate", str(media)]) == 2
    assert "annotate needs -o DIR" in capsys.readouterr().err
    assert main(["annotate", str(media), "-o", str(tmp_path / "x"), "--verify"]) == 2
    assert "holds no masks to verify of these videos" in capsys.readouterr().err
    assert main(["annotate", str(media), "--print-config", "shots.max_shots=20"]) == 0
    assert "max_shots: 20" in capsys.readouterr().out


def test_the_description_is_what_the_detector_looks_for_and_the_pictures_hold_no_path(media, tmp_path):
    detector = SeesRed()
    with serving(annotator) as chat:
        made = Adapters(detector=lambda _: detector, tracker=lambda _: FollowsRed())
        words = settings(chat.base_url, "verify=false", "endpoint.concurrency=1")
        annotate(media / "one.mp4", tmp_path, words, adapters=made)
        assert detector.asked == ["person", PHRASE, PHRASE]
        assert [len(pictures_of(request)) for request in chat.requests] == [2, 8, 20]
        assert str(media) not in json.dumps(chat.requests)


def test_something_else_may_describe_and_act_in_the_place_of_the_endpoint(media, tmp_path):
    seen = []

    def describe(context, questions):
        for i, question in enumerate(questions):
            seen.append((question.image().shape, tuple(question.box)))
            yield i, "somebody"

    def act(context, questions):
        for i, question in reversed(list(enumerate(questions))):
            assert len(question.pictures()) == question.num_frames
            yield i, [Range(0, question.num_frames - 1, "He walks.")] if i else Refused("no idea", "too short.")

    def report(name):
        made = replace(adapters(), describe=describe, act=act, name=name)
        return annotate(media, tmp_path, settings("http://127.0.0.1:9/v1", "verify=false"), adapters=made)

    first = report("own")
    assert (first.annotated, first.stretches, first.samples) == (2, 3, 4) and first.left_out["no idea"] == 1
    assert seen[0][0] == (96, 128, 3) and step(tmp_path, "two", "description") == {"text": "somebody"}
    assert first.cost["actions"]["requests"] == 0
    report("own")
    assert len(seen) == 2
    report("another")
    assert len(seen) == 4


# --- real clips, models of transformers -------------------------------------------------------------------------


def test_real_clips_with_tiny_models_of_transformers(shared, tmp_path, capsys):
    """The whole command on real clips: the models are random, so masks mean nothing; everything else is real."""
    from .tiny_models import save_tiny_grounding_dino, save_tiny_sam2  # transformers' models, for this test alone

    dino, sam2 = save_tiny_grounding_dino(tmp_path / "dino"), save_tiny_sam2(tmp_path / "sam2")
    media = tmp_path / "media"
    media.mkdir()
    for name in ("asl_mix_a.mp4", "chaplin.mp4"):
        (media / name).write_bytes((shared / "videos" / name).read_bytes())
    with serving(annotator) as chat:
        words = [f"endpoint.base_url={chat.base_url}", "endpoint.model=tiny", "verify=false", "track.fps=2"]
        words += [f"person.model={dino}", f"track.model={sam2}", "person.min_score=0", "device=cpu"]
        assert main(["annotate", str(media), "-o", str(tmp_path / "out"), "--workers", "1", *words]) == 0
        asked = [last_id(request) for request in chat.requests]
    assert "2 of 2 videos annotated" in capsys.readouterr().out
    assert len(step(tmp_path / "out", "asl_mix_a", "shots")["shots"]) == 8
    samples = [Sample.from_json(row) for row in read_rows(tmp_path / "out" / "samples.jsonl")]
    ends = {s.events[0].end_s for s in samples if s.video == "chaplin.mp4"}
    assert max(ends) == pytest.approx(9.64, abs=0.01) and asked[:2] == [None, None]
    for sample in samples:
        for track in sample.tracks:
            track.check()
            assert track.size == ((480, 640) if sample.video == "asl_mix_a.mp4" else (360, 640))
            assert track.times_s[0] == 0 and any(track.rles)
    assert {s.task for s in samples} == {"moment_retrieval", "referring_segmentation"}
    assert len(stored(tmp_path / "out" / "shards")) == len(samples)
