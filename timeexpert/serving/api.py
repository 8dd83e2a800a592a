"""OpenAI's chat completions as this server reads them: a JSON body in, a checked question out.

A setting that the model cannot honour is refused, not ignored: greedy decoding has no temperature.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any

from timeexpert.data.records import SampleError, parse_json
from timeexpert.errors import did_you_mean
from timeexpert.model.answering import TASK_LIMITS

from .frames import TIME, image_bytes
from .limits import RequestError, ServingLimits

# The values of these settings that a greedy decoder with one answer honours.
ONLY: dict[str, float] = {"n": 1, "temperature": 0, "presence_penalty": 0, "frequency_penalty": 0}
# These change nothing where the likeliest token is always taken, or are notes of the asker's.
WITHOUT_EFFECT = ("top_p", "seed", "user", "metadata")
FIELDS = (
    *("model", "messages", "task", "max_tokens", "max_completion_tokens", "media_io_kwargs", "stream"),
    *("stream_options", "include_experts", "chat_template_kwargs", *ONLY, *WITHOUT_EFFECT),
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


@dataclass(frozen=True)
class TimedImages:
    """Image files (PNG, JPEG, WebP) and the time of each, in seconds, rising."""

    images: list[bytes]
    times_s: list[float]


@dataclass(frozen=True)
class Asked:
    """What a body asks, checked; the video is still an address, or image files with times."""

    media: str | TimedImages
    prompt: str
    task: str | None = None
    num_frames: int | None = None
    max_tokens: int | None = None
    experts: bool = False
    stream: bool = False
    stream_usage: bool = False


def read_question(body: dict[str, Any], model: str, limits: ServingLimits) -> Asked:
    """The question that a body of :func:`read_body` asks. Raises :class:`RequestError`."""
    if body.get("model", model) != model:
        raise RequestError(f"model ({_show(body['model'])}) is not served here; this server has {model!r}.", 404)
    _check_settings(body)
    task = body.get("task")
    if task is not None and (not isinstance(task, str) or task not in TASK_LIMITS):
        raise RequestError(
            f"task ({_show(task)}) must be one of {', '.join(TASK_LIMITS)}.{did_you_mean(str(task)[:40], TASK_LIMITS)}"
        )
    max_tokens = [
        _whole(name, body[name], 1, 1_000_000) for name in ("max_tokens", "max_completion_tokens") if name in body
    ]
    if len(set(max_tokens)) > 1:
        both = f"max_tokens ({max_tokens[0]}) and max_completion_tokens ({max_tokens[1]})"
        raise RequestError(f"{both} differ. Send one.")
    num_frames = _num_frames(body.get("media_io_kwargs"), limits)
    media, prompt = _content(body.get("messages"), limits)
    return Asked(
        media,
        prompt,
        task,
        num_frames,
        max_tokens[0] if max_tokens else None,
        _flag("include_experts", body.get("include_experts", False)),
        _flag("stream", body.get("stream", False)),
        _stream_usage(body),
    )


def _check_settings(body: dict[str, Any]) -> None:
    for name, value in ONLY.items():
        given = body.get(name, value)
        if isinstance(given, bool) or given != value:
            raise RequestError(
                f"{name} ({_show(given)}) must be {value} or be left out: the likeliest answer is given, and only it."
            )
    thinking = body.get("chat_template_kwargs", {})
    if thinking not in ({}, {"enable_thinking": False}):
        raise RequestError(f"chat_template_kwargs ({_show(thinking)}): the model does not think aloud. Leave it out.")


def _stream_usage(body: dict[str, Any]) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if body.get("stream") is not True or not isinstance(options, dict):
        raise RequestError('stream_options must be like {"include_usage": true}, beside stream=true.')
    _refuse_unknown("stream_options", options, ("include_usage",))
    return _flag("stream_options.include_usage", options.get("include_usage") or False)


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


def _content(messages: Any, limits: ServingLimits) -> tuple[str | TimedImages, str]:
    """The video and the text of the one user message."""
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
    urls, images, texts = _parts(parts)
    if images and urls:
        raise RequestError("messages[0].content has a video and images. Send the video alone.")
    if len(images) > limits.max_num_frames:
        raise RequestError(f"messages[0].content has {len(images)} images; at most {limits.max_num_frames} are read.")
    if not images and len(urls) != 1:
        raise RequestError(
            f"messages[0].content has {len(urls)} video_url or file parts; it must have exactly one, or images with "
            "their times."
        )
    prompt = "\n".join(texts)
    if not prompt.strip():
        raise RequestError("messages[0].content has no text part that asks anything.")
    if len(prompt) > limits.max_prompt_chars:
        raise RequestError(f"the text has {len(prompt)} characters; at most {limits.max_prompt_chars} are read.")
    return (_timed(images) if images else urls[0]), prompt


def _parts(parts: list[dict[str, Any]]) -> tuple[list[str], list[tuple[float, bytes]], list[str]]:
    """(addresses of videos, images with their times, texts) of a message's parts."""
    urls: list[str] = []
    images: list[tuple[float, bytes]] = []
    texts: list[str] = []
    time_s: float | None = None
    for i, part in enumerate(parts):
        where, kind = f"messages[0].content[{i}]", part.get("type")
        if kind == "image_url":
            if time_s is None:
                raise RequestError(
                    f"{where}: an image_url does not say when its frame was shown, so no answer could say when "
                    "something happens. Put a text part like <12.3 seconds> before each image, or send the video as "
                    "one video_url (lmms-eval: pass_video_url=True)."
                )
            images.append((time_s, image_bytes(where, _inside(where, part, "image_url", "url"))))
        elif time_s is not None:
            raise RequestError(f"{where}: the text before it is the time of an image, and no image follows.")
        elif kind == "video_url":
            urls.append(_inside(where, part, "video_url", "url"))
        elif kind == "file":
            name = _inside(where, part, "file", "file_id")
            if not name.startswith("file-"):
                raise RequestError(f"{where}.file.file_id ({_show(name)}) must be the id of an upload, like file-1a2b.")
            urls.append(name)
        elif kind == "text":
            text = _text(f"{where}.text", part.get("text"))
            timed = TIME.fullmatch(text.strip())
            if timed:
                time_s = float(timed[1])
                continue
            texts.append(text)
        else:
            raise RequestError(f"{where}.type ({_show(kind)}) must be video_url, file, image_url or text.")
        time_s = None
    if time_s is not None:
        raise RequestError("messages[0].content ends with the time of an image, and no image follows.")
    return urls, images, texts


def _timed(images: list[tuple[float, bytes]]) -> TimedImages:
    times_s = [time_s for time_s, _ in images]
    for earlier, later in zip(times_s, times_s[1:], strict=False):
        if later <= earlier:
            raise RequestError(f"the times of the images must rise; {later:g} s stands after {earlier:g} s.")
    return TimedImages([data for _, data in images], times_s)


def _inside(where: str, part: dict[str, Any], name: str, field: str) -> str:
    inner = part.get(name)
    return _text(f"{where}.{name}.{field}", inner.get(field) if isinstance(inner, dict) else None)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RequestError(f"{name} ({_show(value)}) must be true or false.")
    return value


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
            raise RequestError(
                f"{where}: unknown field {_show(name)}; known: {', '.join(known)}.{did_you_mean(str(name)[:40], known)}"
            )


def _show(value: Any) -> str:
    """A value for a message, short: it may be a whole video."""
    return _SHORT.repr(value)
