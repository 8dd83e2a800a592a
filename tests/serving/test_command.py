"""``timeexpert serve checkpoints/tiny`` as people start it, asked by the official client and by curl."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from ..served import served
from .conftest import PROMPT, data_url, question

pytestmark = pytest.mark.slow  # it starts the command
ROOT = Path(__file__).resolve().parents[2]
KEY = "open sesame"
MODEL = "tiny"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(TIMEEXPERT_API_KEY=KEY) as url:
        yield url


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=120)


def messages_about(file_id: str) -> Any:
    content = [{"type": "file", "file": {"file_id": file_id}}, {"type": "text", "text": PROMPT}]
    return [{"role": "user", "content": content}]


def curl(url: str, *arguments: str, stdin: str | None = None) -> str:
    """What curl prints. A status of 400 and more fails."""
    command = ["curl", "-sS", "--fail-with-body", "--max-time", "120", "-H", f"Authorization: Bearer {KEY}"]
    done = subprocess.run([*command, *arguments, url], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_official_client_uploads_asks_and_streams(client: openai.OpenAI, video: Path) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    file = client.files.create(file=video, purpose="user_data")
    messages = messages_about(file.id)
    answer = client.chat.completions.create(model=MODEL, messages=messages, extra_body={"task": "moment_retrieval"})
    (event,) = answer.choices[0].message.model_extra["events"]  # type: ignore[index]
    assert 0 <= event["start_s"] <= event["end_s"]
    with client.chat.completions.create(
        model=MODEL, messages=messages, stream=True, extra_body={"task": "moment_retrieval"}
    ) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer.choices[0].message.content and text.startswith(f"{event['start_s']:.1f} ")
    assert chunks[-1].choices[0].model_extra["events"] == [event]  # type: ignore[index]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="no such file"):
        client.chat.completions.create(model=MODEL, messages=messages)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_asks_uploads_and_streams(address: str, video: Path) -> None:
    json_type = ("-H", "Content-Type: application/json", "--data-binary", "@-")
    chat, body = f"{address}/v1/chat/completions", question(data_url(video.read_bytes()), task="moment_retrieval")
    (choice,) = json.loads(curl(chat, *json_type, stdin=json.dumps(body)))["choices"]
    (event,) = choice["message"]["events"]
    assert 0 <= event["start_s"] <= event["end_s"]
    file = json.loads(curl(f"{address}/v1/files", "-F", "purpose=user_data", "-F", f"file=@{video}"))
    assert file["bytes"] == video.stat().st_size
    about_upload = {"messages": messages_about(file["id"]), "task": "moment_retrieval", "stream": True}
    lines = curl(chat, "-N", *json_type, stdin=json.dumps(about_upload)).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert json.loads(lines[-3].removeprefix("data: "))["choices"][0]["events"] == [event]
    assert json.loads(curl(f"{address}/v1/files/{file['id']}", "-X", "DELETE"))["deleted"] is True


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_is_told_why_it_is_refused(address: str) -> None:
    done = subprocess.run(["curl", "-sS", f"{address}/v1/models"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["error"]["message"].startswith("wrong or missing API key")
