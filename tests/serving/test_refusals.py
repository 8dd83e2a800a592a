"""What is refused, with which status, and in which words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from timeexpert.errors import UserError
from timeexpert.serving.limits import ServingLimits
from timeexpert.serving.media import Decoder, RequestError
from timeexpert.serving.run import listen
from timeexpert.serving.settings import ServerSettings

from ..data.media import write_audio, write_video
from .conftest import PROMPT, Client, Reply, Servers, data_url, question


@pytest.fixture(scope="module")
def url(video: Path) -> str:
    return data_url(video.read_bytes())


def refused(reply: Reply, status: int, words: str, kind: str = "invalid_request_error") -> None:
    """An error of OpenAI's shape and nothing else."""
    assert reply.status == status, reply.body
    assert set(reply.body) == {"error"} and set(reply.body["error"]) == {"message", "type"}
    assert reply.body["error"]["type"] == kind
    assert words in reply.message


# -- the video


def test_network_addresses_are_not_fetched(client: Client) -> None:
    for address in ("http://127.0.0.1:1/v.mp4", "https://example.org/v.mp4", "HTTP://169.254.169.254/"):
        refused(client.ask(question(address)), 400, "addresses are not fetched: this server opens no connections")


@pytest.mark.parametrize("address", ["ftp://host/v.mp4", "/etc/passwd", "concat:a|b", "", "video.mp4"])
def test_other_schemes_are_refused(client: Client, address: str) -> None:
    refused(
        client.ask(question(address)), 400, "must begin with data:video/mp4;base64, or file://, http:// or https://"
    )


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("data:video/mp4;base64,AAAA****", "not base64"),
        ("data:video/mp4;base64,AAA", "not base64"),
        ("data:video/mp4;base64,AA-_", "not base64"),
        ("data:video/mp4;base64,AAAAé", "not base64"),
        ("data:video/mp4;base64,", "the video is empty (0 bytes)"),
        ("data:video/mp4,AAAA", "must begin with data:video/mp4;base64,"),
        ("data:video/mp4;base64", "must begin with data:video/mp4;base64,"),
        ("data:text/html;base64,AAAA", "must begin with data:video/mp4;base64,"),
        ("data:video/jpeg;base64,AAAA,AAAA", "holds frames without their times"),
    ],
)
def test_a_data_url_must_be_base64_of_a_video(client: Client, address: str, words: str) -> None:
    refused(client.ask(question(address)), 400, words)


def test_what_is_not_a_video_is_refused_in_words(client: Client, tmp_path: Path) -> None:
    for data, words in (
        (b"just some text, no video", "video_url: not a readable video: it is text"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "it is a playlist that points to other files, which are never opened"),
        (write_audio(tmp_path / "audio.mp4").read_bytes(), "video_url: no video in it, only audio"),
        (b"\x00\x00\x00\x18ftypmp42" + b"\xff" * 500, "video_url: not a readable video"),
    ):
        refused(client.ask(question(data_url(data))), 400, words)


def test_a_video_above_the_limits_of_serving_is_refused(servers: Servers, tmp_path: Path) -> None:
    from timeexpert.data.video import VideoLimits

    small = servers.start(video=VideoLimits(max_duration_s=1.0))
    long = write_video(tmp_path / "long.mp4", num_frames=10, fps=5).read_bytes()
    refused(small.ask(question(data_url(long))), 400, "more than max_duration_s (1.0)")


def test_a_video_that_takes_too_long_to_decode_costs_one_request(video: Path) -> None:
    with Decoder(16, ServingLimits(decode_timeout_s=0.001)) as decoder:
        with pytest.raises(RequestError, match=r"decoding took longer than 0.001 s\. Send a shorter"):
            decoder(video, 4)


# -- file://


def test_files_are_closed_unless_a_folder_is_opened(servers: Servers, video: Path) -> None:
    refused(servers.start().ask(question(video.as_uri())), 400, "file:// is closed. Whoever runs the server can open")


def test_no_path_leaves_the_allowed_folder(client: Client, video: Path) -> None:
    folder = video.parent
    secret = write_video(folder.parent / "secret.mp4", num_frames=5)
    beside = write_video(folder.with_name("in-2") / "video.mp4", num_frames=5)  # shares the folder's name as a prefix
    (folder / "link.mp4").symlink_to(secret)
    (folder / "linked").symlink_to(folder.parent)
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    os.mkfifo(folder / "pipe.mp4")  # reading it would wait for ever
    inside = f"file://{folder}"
    for address in (
        f"{inside}/../secret.mp4",
        f"{inside}/%2e%2e/secret.mp4",
        f"{inside}/%2E%2E%2Fsecret.mp4",
        f"{inside}/%252e%252e/secret.mp4",
        f"{inside}/link.mp4",
        f"{inside}/linked/secret.mp4",
        f"{inside}/loop.mp4",
        f"{inside}/pipe.mp4",
        f"{inside}/noise.mp4%00.mp4",
        f"{inside}/%ff.mp4",
        f"{inside}/absent.mp4",
        f"{inside}/" + 5000 * "a",
        inside,
        secret.as_uri(),
        beside.as_uri(),
        "file:///etc/passwd",
        "file:///proc/self/environ",
    ):
        reply = client.ask(question(address))
        # one sentence for all of them: which files exist outside is nobody's business
        refused(reply, 400, "file:// must name a file inside the folder of --allowed-local-media-path.")
        assert str(folder.parent) not in json.dumps(reply.body)


@pytest.mark.parametrize("address", ["file://noise.mp4", "file://host/noise.mp4", "file:noise.mp4", "file://"])
def test_a_file_url_names_an_absolute_path_of_this_machine(client: Client, address: str) -> None:
    refused(client.ask(question(address)), 400, "write file:///FOLDER/VIDEO.mp4")


def test_errors_about_a_file_do_not_say_where_it_lies(client: Client, video: Path) -> None:
    (video.parent / "deep").mkdir()
    (video.parent / "deep" / "text.mp4").write_text("no video")
    (video.parent / "public.mp4").symlink_to(video.parent / "deep" / "text.mp4")
    reply = client.ask(question((video.parent / "public.mp4").as_uri()))
    refused(reply, 400, "video_url: not a readable video: it is text")
    assert "deep" not in reply.message


# -- the body


def test_a_body_that_is_not_a_json_object_is_refused(client: Client) -> None:
    for body, words in (
        (b"{'model': 'tiny'}", "the body: not JSON"),
        (b"", "the body: not JSON"),
        (b"[1, 2]", "the body must be a JSON object, not list"),
        (b'{"max_tokens": NaN}', "the body: NaN is not allowed"),
        (b'{"max_tokens": 1e999}', "the body: 1e999 is not allowed"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "too large; numbers have at most 18 digits"),
        (b"\xff\xfe{}", "the body is not UTF-8 text"),
        (b'{"a":' * 30_000, "nested too deeply"),
        (b"[" + b"[]," * 100_000 + b"[]]", "the body has 200002 brackets and commas; at most 65536 are read"),
    ):
        refused(client.ask(body), 400, words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": 0}, "max_tokens (0) must be a whole number from 1 to 1000000"),
        ({"max_tokens": -5}, "max_tokens (-5) must be"),
        ({"max_tokens": 10**12}, "max_tokens (1000000000000) must be"),
        ({"max_tokens": 12.5}, "max_tokens (12.5) must be"),
        ({"max_tokens": True}, "max_tokens (True) must be"),
        ({"max_tokens": "64"}, "max_tokens ('64') must be"),
        ({"max_tokens": 3, "task": "moment_retrieval"}, "max_tokens (3) is less than the shortest answer"),
        ({"max_tokens": 30, "max_completion_tokens": 31}, "max_tokens (30) and max_completion_tokens (31) differ"),
        ({"media_io_kwargs": {"video": {"num_frames": 0}}}, "num_frames (0) must be a whole number from 1 to 256"),
        ({"media_io_kwargs": {"video": {"num_frames": 257}}}, "num_frames (257) must be"),
        ({"media_io_kwargs": {"video": {"fps": 2}}}, "media_io_kwargs.video: unknown field 'fps'; known: num_frames"),
        ({"media_io_kwargs": {"audio": {}}}, "media_io_kwargs: unknown field 'audio'"),
        ({"media_io_kwargs": 16}, 'media_io_kwargs (16) must be like {"video": {"num_frames": 16}}'),
        ({"stream": "yes"}, "stream ('yes') must be true or false"),
        ({"stream": 1}, "stream (1) must be true or false"),
        ({"stream_options": {"include_usage": True}}, "beside stream=true"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options: unknown field 'usage'"),
        ({"include_experts": "yes"}, "include_experts ('yes') must be true or false"),
        ({"temperature": 0.7}, "temperature (0.7) must be 0 or be left out"),
        ({"n": 2}, "n (2) must be 1 or be left out"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "does not think aloud"),
        ({"task": "moment"}, "task ('moment') must be one of general, dense_captioning"),
        ({"task": ["moment_retrieval"]}, "must be one of general"),
        ({"model": "gpt-4o"}, "model ('gpt-4o') is not served here; this server has 'tiny'"),
        ({"tools": []}, "the request: unknown field 'tools'; known: model, messages"),
        ({"max_token": 5}, "Did you mean 'max_tokens'?"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused(client: Client, url: str, fields: Any, words: str) -> None:
    refused(client.ask(question(url, **fields)), 404 if "model" in fields else 400, words)


def test_settings_that_change_nothing_are_accepted(client: Client, url: str) -> None:
    neutral = {"n": 1, "temperature": 0, "top_p": 0.9, "seed": 1, "user": "me", "stream": False, "max_tokens": None}
    reply = client.ask(question(url, **neutral, chat_template_kwargs={"enable_thinking": False}))
    assert reply.status == 200
    answers = [answer.body["choices"][0] for answer in (reply, client.ask(question(url)))]
    for answer in answers:
        del answer["message"]["timings"]
    assert answers[0] == answers[1]


def video_part(url: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


TEXT = {"type": "text", "text": PROMPT}
SOME_URL = "data:video/mp4;base64,AAAA"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PROMPT, "messages[0].content is text without a video"),
        ([TEXT], "has 0 video_url or file parts; it must have exactly one"),
        ([video_part(SOME_URL), video_part(SOME_URL), TEXT], "has 2 video_url or file parts"),
        ([video_part(SOME_URL)], "no text part that asks anything"),
        ([video_part(SOME_URL), {"type": "text", "text": " \n"}], "no text part that asks anything"),
        ([video_part(SOME_URL), {"type": "text", "text": "w" * 16_001}], "the text has 16001 characters; at most"),
        ([video_part(SOME_URL), {"type": "text", "text": "\ud800"}], "character 0 is half a surrogate pair"),
        ([video_part(5), TEXT], "messages[0].content[0].video_url.url (5) must be text"),
        ([{"type": "video_url", "video_url": SOME_URL}, TEXT], "content[0].video_url.url (None) must be text"),
        (
            [{"type": "input_audio"}, TEXT],
            "messages[0].content[0].type ('input_audio') must be video_url, file, image_url",
        ),
        (["words"], "must be a list of video_url and text parts"),
        (None, "messages[0].content (None) must be a list"),
    ],
)
def test_the_message_holds_one_video_and_text(client: Client, content: Any, words: str) -> None:
    refused(client.ask({"messages": [{"role": "user", "content": content}]}), 400, words)


def test_bare_frames_are_refused_because_they_have_no_times(client: Client) -> None:
    frames = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}] * 4
    reply = client.ask({"messages": [{"role": "user", "content": [*frames, TEXT]}]})
    refused(reply, 400, "an image_url does not say when its frame was shown")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "messages (roles: none) must be one user message"),
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": []}], "(roles: 'system', 'user')"),
        ([{"role": "assistant", "content": []}], "(roles: 'assistant')"),
        ("hello", "messages ('hello') must be a list of objects"),
        (None, "messages (None) must be a list of objects"),
    ],
)
def test_one_user_message_is_answered_and_no_conversation(client: Client, messages: Any, words: str) -> None:
    refused(client.ask({"messages": messages}), 400, words)


def test_a_long_message_is_shown_shortened(client: Client) -> None:
    reply = client.ask(question("x" * 100_000, task="y" * 100_000))
    assert reply.status == 400 and len(reply.message) < 400


def test_more_than_the_model_can_read_is_refused(client: Client, tmp_path: Path) -> None:
    long = data_url(write_video(tmp_path / "long.mp4", num_frames=80).read_bytes())
    reply = client.ask(question(long, media_io_kwargs={"video": {"num_frames": 80}}))
    refused(reply, 400, "more than the model's 1024. Ask for fewer frames (media_io_kwargs.video.num_frames)")


def test_a_failure_of_ours_is_logged_and_not_shown(
    servers: Servers, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = servers.start()

    def fail(*_: Any) -> None:
        raise KeyError("/home/somebody/model.safetensors")

    monkeypatch.setattr(own.engine, "submit", fail)
    refused(own.ask(question(url)), 500, "the server failed; its log says why.", "server_error")
    assert "KeyError: '/home/somebody/model.safetensors'" in caplog.text
    assert own.send("GET", "/healthz").status == 200


# -- opening


def test_a_server_that_cannot_be_opened_says_why(client: Client, tmp_path: Path) -> None:
    taken = client.address[1]
    with pytest.raises(UserError, match=rf"--port {taken}: cannot listen there: .*in use.* Choose another --port"):
        listen("127.0.0.1", taken)
    for fields, words in (
        ({"api_key": ""}, r"--api-key must be ASCII characters, at least one"),
        ({"allowed_folder": tmp_path / "absent"}, r"--allowed-local-media-path \(.*absent\) is not a folder"),
        ({"samples": tmp_path / "absent"}, r"--samples \(.*absent\) is not a folder"),
        ({"allowed_domains": ("https://a.org",)}, r"--allowed-media-domains \('https://a.org'\) must be like"),
        ({"cors_origins": ("*",)}, r"--cors-origin \('\*'\) must be like https://"),
    ):
        with pytest.raises(UserError, match=words):
            ServerSettings(model="tiny", frame_size=16, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "65536"], r"--port \(65536\) must be a number from 0 to 65535"),
        (["--max-upload-mb", "5000"], r"--max-upload-mb \(5000\) must be a number from 1 to 4096"),
        (["--max-body-mb", "0"], r"--max-body-mb \(0\) must be a number from 1 to 1024"),
        (["--decode-memory-mb", "10"], r"--decode-memory-mb \(10\) must be a number from 256 to 65536"),
    ],
)
def test_flags_out_of_range_are_refused_before_the_model_is_read(flags: list[str], words: str) -> None:
    import argparse

    from timeexpert.commands import serve

    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    with pytest.raises(UserError, match=words):
        serve.run(parser.parse_args(["absent", *flags]))
