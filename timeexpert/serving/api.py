"""OpenAI's chat completions as this server speaks them: a JSON body in, a checked question out; a reply as JSON.

A setting that the model cannot honour is refused, not ignored: greedy decoding has no temperature.
"""

from __future__ import annotations

import reprlib
import time
import uuid
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from timeexpert.data.records import SampleError, parse_json
from timeexpert.predict import TASK_LIMITS

from .answer_text import readable
from .engine import Question, Reply, Video
from .limits import RequestError, ServingLimits
from .media import content_hash, video_source

# The values of these settings that a greedy decoder with one answer honours.
ONLY: dict[str, float] = {"n": 1, "temperature": 0, "presence_penalty": 0, "frequency_penalty": 0}
# These change nothing where the likeliest token is always taken, or are notes of the asker's.
WITHOUT_EFFECT = ("top_p", "seed", "user", "metadata")
FIELDS = (
    *("model", "messages", "task", "max_tokens", "max_completion_tokens", "media_io_kwargs", "stream"),
    *("chat_template_kwargs", *ONLY, *WITHOUT_EFFECT),
)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


def read_body(body: bytes, limits: ServingLimits) -> dict[str, Any]:
    """The JSON object in ``body``; absent and null fields are the same. Raises :class:`RequestError`."""
    marks = sum(body.count(mark) for mark in b"[{,")
    if marks > limits.max_json_marks:
        raise RequestError(f"the body has {marks} brackets and commas; at most {limits.max_json_marks} are read.")
    try:
        value = parse_json(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8 text: {error.reason} at byte {error.start}.") from None
    except SampleError as error:
        raise RequestError(f"the body: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(f"the body must be a JSON object, not {type(value).__name__}.")
    _refuse_unknown("the request", value, FIELDS)
    return {name: field for name, field in value.items() if field is not None}


def read_question(body: dict[str, Any], model: str, allowed_folder: Path | None, limits: ServingLimits) -> Question:
    """The question that a body of :func:`read_body` asks. Raises :class:`RequestError`."""
    if body.get("model", model) != model:
        raise RequestError(f"model ({_show(body['model'])}) is not served here; this server has {model!r}.", 404)
    _check_settings(body)
    task = body.get("task")
    if task is not None and (not isinstance(task, str) or task not in TASK_LIMITS):
        raise RequestError(f"task ({_show(task)}) must be one of {', '.join(TASK_LIMITS)}.{_near(task, TASK_LIMITS)}")
    max_tokens = [
        _whole(name, body[name], 1, 1_000_000) for name in ("max_tokens", "max_completion_tokens") if name in body
    ]
    if len(set(max_tokens)) > 1:
        both = f"max_tokens ({max_tokens[0]}) and max_completion_tokens ({max_tokens[1]})"
        raise RequestError(f"{both} differ. Send one.")
    num_frames = _num_frames(body.get("media_io_kwargs"), limits)
    url, prompt = _content(body.get("messages"), limits)
    source = video_source(url, allowed_folder)
    return Question(
        Video(source, content_hash(source)), prompt, task, num_frames, max_tokens[0] if max_tokens else None
    )


def _check_settings(body: dict[str, Any]) -> None:
    if body.get("stream", False) is not False:
        raise RequestError("stream: answers are not streamed here: they are short and come whole. Send stream=false.")
    for name, value in ONLY.items():
        given = body.get(name, value)
        if isinstance(given, bool) or given != value:
            raise RequestError(
                f"{name} ({_show(given)}) must be {value} or be left out: the likeliest answer is given, and only it."
            )
    thinking = body.get("chat_template_kwargs", {})
    if thinking not in ({}, {"enable_thinking": False}):
        raise RequestError(f"chat_template_kwargs ({_show(thinking)}): the model does not think aloud. Leave it out.")


def _num_frames(settings: Any, limits: ServingLimits) -> int | None:
    if settings is None:
        return None
    if not isinstance(settings, dict) or not isinstance(settings.get("video", {}), dict):
        raise RequestError(f'media_io_kwargs ({_show(settings)}) must be like {{"video": {{"num_frames": 16}}}}.')
    _refuse_unknown("media_io_kwargs", settings, ("video",))
    video = settings.get("video", {})
    _refuse_unknown("media_io_kwargs.video", video, ("num_frames",))
    if video.get("num_frames") is None:
        return None
    return _whole("media_io_kwargs.video.num_frames", video["num_frames"], 1, limits.max_num_frames)


def _content(messages: Any, limits: ServingLimits) -> tuple[str, str]:
    """The video's URL and the text of the one user message."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise RequestError(f"messages ({_show(messages)}) must be a list of objects with role and content.")
    if len(messages) != 1 or messages[0].get("role") != "user":
        roles = ", ".join(_show(m.get("role")) for m in messages[:8]) or "none"
        raise RequestError(
            f"messages (roles: {roles}) must be one user message: the model was trained on single questions and would "
            "not read system texts or earlier turns."
        )
    _refuse_unknown("messages[0]", messages[0], ("role", "content", "name"))
    parts = messages[0].get("content")
    if isinstance(parts, str):
        raise RequestError(
            "messages[0].content is text without a video. Send a list of one video_url and one text part."
        )
    if not isinstance(parts, list) or not all(isinstance(p, dict) for p in parts):
        raise RequestError(f"messages[0].content ({_show(parts)}) must be a list of video_url and text parts.")
    urls, texts = [], []
    for i, part in enumerate(parts):
        where, kind = f"messages[0].content[{i}]", part.get("type")
        if kind == "image_url":
            raise RequestError(
                f"{where}: an image_url does not say when its frame was shown, so no answer could say when something "
                "happens. Send the video as one video_url (lmms-eval: pass_video_url=True)."
            )
        if kind == "video_url":
            url = part["video_url"].get("url") if isinstance(part.get("video_url"), dict) else None
            urls.append(_text(f"{where}.video_url.url", url))
        elif kind == "text":
            texts.append(_text(f"{where}.text", part.get("text")))
        else:
            raise RequestError(f"{where}.type ({_show(kind)}) must be video_url or text.")
    if len(urls) != 1:
        raise RequestError(f"messages[0].content has {len(urls)} video_url parts; it must have exactly one.")
    prompt = "\n".join(texts)
    if not prompt.strip():
        raise RequestError("messages[0].content has no text part that asks anything.")
    if len(prompt) > limits.max_prompt_chars:
        raise RequestError(f"the text has {len(prompt)} characters; at most {limits.max_prompt_chars} are read.")
    return urls[0], prompt


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{where} ({_show(value)}) must be text.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(f"{where}: character {error.start} is half a surrogate pair, which is no text.") from None
    return value


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} ({_show(value)}) must be a whole number from {low} to {high}.")
    return value


def _refuse_unknown(where: str, value: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in value:
        if name not in known:
            raise RequestError(f"{where}: unknown field {_show(name)}; known: {', '.join(known)}.{_near(name, known)}")


def _near(name: Any, known: Any) -> str:
    match = get_close_matches(str(name)[:40], known, n=1)
    return f" Did you mean {match[0]!r}?" if match else ""


def _show(value: Any) -> str:
    """A value for a message, short: it may be a whole video."""
    return _SHORT.repr(value)


def completion(reply: Reply, model: str) -> dict[str, Any]:
    """The response body: ``content`` to read, ``events`` to compute with. Times in seconds."""
    prediction = reply.prediction
    message = {
        "role": "assistant",
        "content": "\n".join(readable(event) for event in prediction.events),
        **prediction.to_json(),
        "video_damage": reply.damage,
    }
    prompt, answer = prediction.prompt_tokens, prediction.completion_tokens
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "length" if reply.cut else "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer},
    }
