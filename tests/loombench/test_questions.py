"""Questions from an endpoint: refused ones are counted and asked again, nothing is lost, a stopped run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.chat_server import ChatServer, Reply, completion, serving
from tests.data.media import read_rows, write_lines
from timeexpert.cli import main
from timeexpert.data.endpoint import EndpointConfig, EndpointError
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample
from timeexpert.loombench import QuestionsConfig, QuestionsReport, make_questions
from timeexpert.loombench.run import LoomBenchError

SEEN = np.pad(np.ones((2, 2)), 3)
TRACK = MaskTrack.from_masks([SEEN, SEEN, np.zeros((8, 8))], [1.0, 2.0, 8.0]).to_json()


def shots(id: str, *spans: tuple[float, float], **fields: Any) -> dict[str, Any]:
    """A described video; its segments are described as "the man does a", "... b"."""
    events = [
        {"start_s": s, "end_s": e, "scores": [], "text": f"the man does {'abcdefgh'[i]}"}
        for i, (s, e) in enumerate(spans)
    ]
    row = {"id": id, "video": f"{id}.mp4", "task": "dense_captioning", "prompt": "?", "events": events}
    return {**row, "duration_s": 10.0, **fields}


def last_shot(request: dict[str, Any]) -> dict[str, Any]:
    """The shot that a request is about."""
    described = [m["content"] for m in request["messages"] if m["role"] == "user" and m["content"].startswith("{")]
    return dict(json.loads(described[-1]))


def written(request: dict[str, Any], **changes: str) -> str:
    """A good answer to a request; ``changes`` take the place of its questions."""
    shot = last_shot(request)
    does = shot["description"].removeprefix("the man ")
    questions = {
        "when": f"When is it that the man {does}?",
        "where": f"Where is the man from {shot['from_s']} to {shot['to_s']} s?",
        "combined": f"When is it that the man {does}, and where is he?",
    }
    asked = [kind for kind in questions if f'- "{kind}" ' in request["messages"][0]["content"]]
    return json.dumps({kind: changes.get(kind, questions[kind]) for kind in asked})


def make(samples: Path, out: Path, chat: ChatServer, **changes: Any) -> QuestionsReport:
    endpoint = {"retries": 1, "backoff_s": 0.01, "timeout_s": 5.0, "concurrency": 2}
    own = {name: changes.pop(name) for name in list(changes) if name in EndpointConfig.__dataclass_fields__}
    config = EndpointConfig(base_url=chat.base_url, model="writer", **{**endpoint, **own})  # type: ignore[arg-type]
    return make_questions(samples, out, QuestionsConfig(endpoint=config, **changes))


def test_every_shot_gets_three_questions_with_its_truth(tmp_path: Path) -> None:
    samples = write_lines(tmp_path / "s.jsonl", [shots("v", (1, 2.5), (2, 9), tracks=[TRACK])])
    with serving(lambda number, request: completion(written(request))) as chat:
        report = make(samples, tmp_path / "out", chat)
    assert report.questions == {"when": 2, "where": 2, "combined": 2} and report.shots == 2
    assert (report.refusals, report.given_up, report.not_asked, report.asked_again) == ({}, {}, {}, 0)
    assert report.usage is not None and report.usage["requests"] == 2
    made = [Sample.from_json(row) for row in read_rows(tmp_path / "out" / "questions.jsonl")]
    assert [s.id for s in made] == [f"v.{shot}.{kind}" for shot in (0, 1) for kind in ("when", "where", "combined")]
    when, where, combined = made[:3]
    assert when.task == "moment_retrieval" and when.tracks == () and when.meta["question_kind"] == "when"
    assert where.task == combined.task == "referring_segmentation"
    assert where.prompt == "Where is the man from 1.0 to 2.5 s?" and where.tracks == combined.tracks != ()
    assert (combined.events[0].start_s, combined.events[0].end_s) == (1.0, 2.5)
    assert read_rows(tmp_path / "out" / "refused.jsonl") == []
    assert json.loads((tmp_path / "out" / "loombench.json").read_text())["questions"] == report.questions


def test_refused_questions_alone_are_asked_for_again_with_the_reason(tmp_path: Path) -> None:
    samples = write_lines(tmp_path / "s.jsonl", [shots("v", (1, 2.5), tracks=[TRACK])])

    def reply(number: int, request: dict[str, Any]) -> Reply:
        return completion(written(request, when="When, at 1.0 s, does he do it?") if number == 0 else written(request))

    with serving(reply) as chat:
        report = make(samples, tmp_path / "out", chat)
        asked = [request["messages"][-1]["content"] for request in chat.requests]
    assert report.refusals == {"leaks a time": 1} and report.asked_again == 1 and report.given_up == {}
    assert len(asked) == 2 and "\"when\": '1.0 s' is a time" in asked[1] and '"where"' not in asked[1]
    rows = {row["id"]: row["prompt"] for row in read_rows(tmp_path / "out" / "questions.jsonl")}
    assert rows["v.0.when"] == "When is it that the man does a?" and len(rows) == 3


def test_what_no_try_makes_stands_in_refused_with_its_reason(tmp_path: Path) -> None:
    samples = write_lines(tmp_path / "s.jsonl", [shots("v", (1, 2.5), tracks=[TRACK]), shots("w", (1, 2.5))])

    def reply(number: int, request: dict[str, Any]) -> Reply:
        """Words about v, which has masks, and nothing about w."""
        has_masks = '"where"' in request["messages"][0]["content"]
        return completion("I cannot do that.") if has_masks else (500, {}, b"oh")

    with serving(reply) as chat:
        report = make(samples, tmp_path / "out", chat, max_tries=2)
    assert report.questions == {} and report.given_up == {"when": 2, "where": 1, "combined": 1}
    assert report.refusals == {"not the form asked for": 6, "no answer": 1} and report.not_asked == {"no masks": 2}
    rows = read_rows(tmp_path / "out" / "refused.jsonl")
    assert {row["id"]: row["kind"] for row in rows} == {
        "v.0.when": "not the form asked for",
        "v.0.where": "not the form asked for",
        "v.0.combined": "not the form asked for",
        "w.0.when": "no answer",
        "w.0.where": "no masks",
        "w.0.combined": "no masks",
    }
    assert "HTTP 500: oh (tried 2 times)" in next(row["reason"] for row in rows if row["id"] == "w.0.when")


def test_a_file_in_place_of_the_output_folder_is_named(tmp_path: Path) -> None:
    samples = write_lines(tmp_path / "s.jsonl", [shots("v", (1, 2.5))])
    with (
        serving(lambda number, request: completion(written(request))) as chat,
        pytest.raises(LoomBenchError, match=r"s.jsonl: cannot be written: File exists. Choose another -o."),
    ):
        make(samples, samples, chat)


def test_what_no_question_can_be_about_is_named(tmp_path: Path) -> None:
    untimed = shots("u", (1, 2)) | {"events": [{"start_s": None, "end_s": None, "scores": [], "text": "a man"}]}
    rows = [
        shots("v", (3, 5), tracks=[TRACK]),  # the track is empty from 3 to 5 s
        shots("w", (1, 2), tracks=[TRACK, TRACK]),
        untimed,
        shots("v2", (3, 5), video="v.mp4"),  # the shot of v once more
        "not JSON",
        shots("w", (6, 7)),
    ]
    samples = write_lines(tmp_path / "s.jsonl", rows)
    with serving(lambda number, request: completion(written(request))) as chat:
        report = make(samples, tmp_path / "out", chat)
    assert report.questions == {"when": 2} and report.samples == 4
    assert report.not_asked == {
        "not seen in the segment": 2,
        "several objects": 2,
        "no described segment": 1,
        "the same segment again": 1,
        "bad line": 1,
        "duplicate id": 1,
    }
    reasons = [row["reason"] for row in read_rows(tmp_path / "out" / "refused.jsonl")]
    assert len(reasons) == 8 and "the track has no mask from 3 to 5 s." in reasons


def test_a_rate_limit_is_waited_for_and_a_repeated_run_asks_nothing(tmp_path: Path) -> None:
    samples = write_lines(tmp_path / "s.jsonl", [shots("v", (1, 2.5), tracks=[TRACK])])

    def reply(number: int, request: dict[str, Any]) -> Reply:
        return (429, {"Retry-After": "0"}, b"slow down") if number == 0 else completion(written(request))

    with serving(reply) as chat:
        report = make(samples, tmp_path / "out", chat)
        before = (tmp_path / "out" / "questions.jsonl").read_bytes()
        again = make(samples, tmp_path / "out", chat)
        assert len(chat.requests) == 2
    assert report.usage is not None and report.usage["retries"] == 1
    assert again.usage is not None and (again.usage["requests"], again.usage["from_cache"]) == (0, 1)
    assert (tmp_path / "out" / "questions.jsonl").read_bytes() == before


def test_an_endpoint_that_fails_for_good_leaves_no_half_written_file_and_the_next_run_goes_on(tmp_path: Path) -> None:
    spans = [(float(i), i + 0.5) for i in range(6)]
    samples = write_lines(tmp_path / "s.jsonl", [shots("v", *spans)])

    def reply(number: int, request: dict[str, Any]) -> Reply:
        return completion(written(request)) if number < 3 else (500, {}, b"down")

    with serving(reply) as chat, pytest.raises(EndpointError, match="3 requests in a row without an answer"):
        make(samples, tmp_path / "out", chat, concurrency=1, retries=0, max_consecutive_failures=3)
    assert not (tmp_path / "out" / "questions.jsonl").exists()
    kept = len(read_rows(tmp_path / "out" / "cache" / "answers.jsonl"))
    with serving(lambda number, request: completion(written(request))) as chat:
        # another port is another address: the cache goes by what was asked of whom
        lines = (tmp_path / "out" / "cache" / "answers.jsonl").read_text()
        report = make(samples, tmp_path / "out", chat)
    assert kept == 3 and report.questions == {"when": 6}
    assert (tmp_path / "out" / "cache" / "answers.jsonl").read_text().startswith(lines)


def test_a_run_that_fails_leaves_the_files_of_the_one_before_it(tmp_path: Path) -> None:
    samples = write_lines(tmp_path / "s.jsonl", [shots("v", (1, 2.5), tracks=[TRACK])])
    out = tmp_path / "out"
    with serving(lambda number, request: completion(written(request))) as chat:
        make(samples, out, chat)
    before = {path.name: path.read_bytes() for path in out.glob("*.json*")}
    assert {"questions.jsonl", "refused.jsonl", "loombench.json"} <= before.keys()
    with serving(lambda number, request: (401, {}, b"no")) as chat, pytest.raises(EndpointError, match="HTTP 401"):
        make(samples, out, chat)
    assert {name: (out / name).read_bytes() for name in before} == before


KILLED = """
import os, signal, sys
from timeexpert.config import load
from timeexpert.loombench import QuestionsConfig, make_questions
def progress(done, total, what):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
samples, out, *settings = sys.argv[1:]
make_questions(samples, out, load(QuestionsConfig, None, settings), progress=progress)
"""


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    spans = [(float(i), i + 0.5) for i in range(6)]
    samples = write_lines(tmp_path / "s.jsonl", [shots("v", *spans)])
    with serving(lambda number, request: completion(written(request))) as chat:
        words = [str(samples), str(tmp_path / "out"), f"endpoint.base_url={chat.base_url}", "endpoint.model=writer"]
        words += ["endpoint.concurrency=1"]
        done = subprocess.run([sys.executable, "-c", KILLED, *words], env=os.environ, check=False)
        assert done.returncode == -signal.SIGKILL and not (tmp_path / "out" / "questions.jsonl").exists()
        asked = len(chat.requests)
        report = make(samples, tmp_path / "out", chat, concurrency=1)
        assert report.usage is not None and report.usage["from_cache"] >= 3
        assert len(chat.requests) - asked == 6 - report.usage["from_cache"]
        whole = make(samples, tmp_path / "whole", chat)
    assert whole.questions == report.questions == {"when": 6}
    ours, theirs = (tmp_path / name / "questions.jsonl" for name in ("out", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_command_tells_what_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = write_lines(tmp_path / "s.jsonl", [shots("v", (1, 2.5), tracks=[TRACK]), shots("w", (1, 2))])
    with serving(lambda number, request: completion(written(request))) as chat:
        words = ["loombench", "questions", str(samples), f"endpoint.base_url={chat.base_url}", "endpoint.model=m"]
        assert main([*words, "-o", str(tmp_path / "out")]) == 0
        said = capsys.readouterr().out
        assert "2 shots of 2 samples; questions: when 2, where 1, combined 1" in said
        assert "not asked: no masks 2" in said and "requests 2, from the cache 0" in said
        assert main([*words, "-o", str(tmp_path / "out"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["usage"]["from_cache"] == 2
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "mine.txt").touch()
        for more, message in (
            ([], "loombench questions needs -o DIR"),
            (["-o", str(tmp_path / "other")], "holds mine.txt, which no making of questions wrote. Give an empty -o."),
            (["-o", str(tmp_path / "out"), "kinds=[why]"], "kinds[0] ('why') must be one of when, where, combined."),
            (["-o", str(tmp_path / "out"), "kinds=[]"], "kinds ([]) must name one or more of when, where, combined"),
            (["-o", str(tmp_path / "out"), "max_tries=0"], "max_tries (0) must be between 1 and 20."),
        ):
            assert main([*words, *more]) == 2
            assert message in capsys.readouterr().err
    assert main(["loombench", "questions", "x.jsonl", "-o", "y"]) == 2
    assert "key 'endpoint' is missing" in capsys.readouterr().err


def test_answers_without_a_count_of_tokens_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = write_lines(tmp_path / "s.jsonl", [shots("w", (1, 2))])
    with serving(lambda number, request: completion(written(request), usage={})) as chat:
        words = [str(samples), f"endpoint.base_url={chat.base_url}", "endpoint.model=m", "-o", str(tmp_path / "out")]
        assert main(["loombench", "questions", *words]) == 0
    assert "tokens 0 + 0 (1 answers came without a count of tokens)" in capsys.readouterr().out


def test_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = QuestionsConfig(endpoint=EndpointConfig(base_url="http://localhost:1/v1", model="m"))
    with pytest.raises(LoomBenchError, match=r"none.jsonl: no such file. Give a Sample .jsonl"):
        make_questions(tmp_path / "none.jsonl", tmp_path / "out", config)
