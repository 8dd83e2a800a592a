"""What a good request gets: the events that Predictor gives, as typed data and as text to read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from timeexpert.predict import Predictor, Request
from timeexpert.serving.answer_text import readable
from timeexpert.tokenization import Event

from ..data.media import write_video
from .conftest import PROMPT, Client, data_url, question


def plain(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events as Predictor gives them: without what the server knows about them."""
    return [{name: value for name, value in event.items() if name != "confidence"} for event in events]


ROOT = Path(__file__).resolve().parents[2]


def test_the_answer_is_the_predictors(client: Client, predictor: Predictor, video: Path) -> None:
    expected = predictor.ask(video, PROMPT)
    reply = client.ask(question(data_url(video.read_bytes())))
    assert reply.status == 200 and reply.body["model"] == "tiny"
    (choice,) = reply.body["choices"]
    message = choice["message"]
    assert message["role"] == "assistant" and len(message["events"]) >= 1
    assert plain(message["events"]) == expected.events.to_json()
    assert message["frame_times_s"] == [0.4, 1.4, 2.4, 3.4]  # centres 0.5, 1.5, ...: the frames on screen then
    assert (message["duration_s"], message["problems"], message["video_damage"]) == (4.0, [], None)
    assert message["content"] == "\n".join(readable(event) for event in expected.events)


def test_usage_counts_the_prompts_visual_tokens_and_the_answers_end(
    client: Client, predictor: Predictor, video: Path
) -> None:
    usage = client.ask(question(data_url(video.read_bytes()))).body["usage"]
    start, text = predictor.text.prompt(PROMPT)
    assert usage["prompt_tokens"] == len(start) + 4 * (8 + 6) + len(text)  # 8 visual and 6 time tokens per frame
    assert 1 <= usage["completion_tokens"] <= 48
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_frames_tokens_and_task_may_be_asked_for(client: Client, predictor: Predictor, video: Path) -> None:
    body = question(
        data_url(video.read_bytes()),
        task="moment_retrieval",
        max_tokens=18,  # one segment takes 17: <sync>, 6 + <sep> + 6 + <sync>, an empty score list, the end
        media_io_kwargs={"video": {"num_frames": 2}},
    )
    (choice,) = client.ask(body).body["choices"]
    request = Request(predictor.clip(video, num_frames=2), PROMPT, "moment_retrieval")
    expected = predictor.with_config(max_new_tokens=18).answer([request])[0]
    assert plain(choice["message"]["events"]) == expected.events.to_json()
    assert choice["message"]["frame_times_s"] == [1.0, 3.0]
    (event,) = choice["message"]["events"]
    assert event["start_s"] <= event["end_s"] <= 4.0 and event["scores"] == []
    assert choice["finish_reason"] == ("length" if expected.completion_tokens == 18 else "stop")


def test_the_request_of_lmms_eval_is_answered_from_the_allowed_folder(client: Client, video: Path) -> None:
    body = question(video.as_uri(), model="tiny", max_tokens=64, media_io_kwargs={"video": {"num_frames": 8}})
    reply = client.ask(body)
    assert reply.status == 200 and isinstance(reply.body["choices"][0]["message"]["content"], str)
    assert len(reply.body["choices"][0]["message"]["frame_times_s"]) == 8


def test_a_file_name_is_percent_decoded_once(client: Client, video: Path) -> None:
    odd = video.parent / "100%25 odd ü.mp4"
    odd.write_bytes(video.read_bytes())
    assert "%2525%20odd" in odd.as_uri()
    assert client.ask(question(odd.as_uri())).status == 200


def test_a_video_that_was_cut_short_is_answered_and_said_to_be(client: Client, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", num_frames=40).read_bytes()
    url = "data:video/x-matroska;base64," + data_url(whole[: len(whole) * 2 // 3]).partition(",")[2]
    message = client.ask(question(url)).body["choices"][0]["message"]
    assert message["video_damage"].startswith("cut short") and message["duration_s"] < 8.0


def test_requests_at_the_same_time_get_their_own_answers(client: Client, predictor: Predictor, video: Path) -> None:
    prompts = [f"When does circle {i} grow?" for i in range(6)]
    expected = [predictor.ask(video, prompt).events.to_json() for prompt in prompts]
    bodies = [question(data_url(video.read_bytes()), prompt) for prompt in prompts]
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(client.ask, bodies))
    assert [reply.status for reply in replies] == [200] * 6
    assert [plain(reply.body["choices"][0]["message"]["events"]) for reply in replies] == expected


def test_models_and_health(client: Client) -> None:
    models = client.send("GET", "/v1/models").body
    assert models["object"] == "list" and [row["id"] for row in models["data"]] == ["tiny"]
    assert client.send("GET", "/healthz").body == {"status": "ok"}
    assert client.send("GET", "/readyz").body == {"status": "ready", "model": "tiny"}


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Event(12.3, 15.6, (), "a circle grows"), "12.3 - 15.6 s: a circle grows"),
        (Event(12.3, 12.3, (4.5,)), "12.3 s (score 4.5)"),
        (Event(1.0, 2.0), "1.0 - 2.0 s"),
        (Event(None, None, (), "a red circle"), "a red circle"),
        (Event(0.0, 0.0, (1.0,), "two\nlines"), "0.0 s (score 1): two lines"),
    ],
)
def test_an_event_is_one_line(event: Event, line: str) -> None:
    assert readable(event) == line
