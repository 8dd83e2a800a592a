"""The OpenAPI document of what the server really takes and gives, written by hand and tested against it."""

from __future__ import annotations

from typing import Any

import timeexpert
from timeexpert.model.answering import TASK_LIMITS

from .settings import ServerSettings

Schema = dict[str, Any]


def _object(required: str, **properties: Schema) -> Schema:
    return {"type": "object", "required": required.split(), "properties": properties}


def _closed(required: str, **properties: Schema) -> Schema:
    return {**_object(required, **properties), "additionalProperties": False}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def _only(*values: Any) -> Schema:
    return {"enum": list(values)}


TEXT, NUMBER, WHOLE, FLAG = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
ANYTHING: Schema = {}
SECONDS = {"type": "number", "minimum": 0, "description": "seconds"}
SHARE = _or_null({"type": "number", "minimum": 0, "maximum": 1})

EVENT = _object(
    "start_s end_s scores text confidence",
    start_s=_or_null(SECONDS),
    end_s=_or_null(SECONDS),
    scores=_list(NUMBER),
    text=TEXT,
    confidence=_object("start end score", start=SHARE, end=SHARE, score=SHARE),
)
TRACK = _object(
    "object_id size times_s rles",
    object_id=TEXT,
    size=_list(WHOLE, minItems=2, maxItems=2),
    times_s=_list(SECONDS, minItems=1),
    rles=_list(_or_null(TEXT), minItems=1),
)
MESSAGE = _object(
    "role content events problems frame_times_s duration_s video_damage timings",
    role=_only("assistant"),
    content=TEXT,
    events=_list(EVENT),
    problems=_list(_object("position reason", position=WHOLE, reason=TEXT)),
    frame_times_s=_list(SECONDS),
    duration_s=SECONDS,
    video_damage=_or_null(TEXT),
    timings={"type": "object", "additionalProperties": SECONDS},
    experts=_object("layers tokens", layers=_list(_list(NUMBER)), tokens={"type": "object"}),
    tracks=_list(TRACK),
)
COMPLETION = _object(
    "id object created model choices usage",
    id=TEXT,
    object=_only("chat.completion"),
    created=WHOLE,
    model=TEXT,
    choices=_list(
        _object("index message finish_reason", index=WHOLE, message=MESSAGE, finish_reason=_only("stop", "length")),
        minItems=1,
        maxItems=1,
    ),
    usage=_object(
        "prompt_tokens completion_tokens total_tokens", prompt_tokens=WHOLE, completion_tokens=WHOLE, total_tokens=WHOLE
    ),
)
FILE = _object(
    "id object bytes created_at expires_at filename purpose status",
    id=TEXT,
    object=_only("file"),
    bytes=WHOLE,
    created_at=WHOLE,
    expires_at=WHOLE,
    filename=TEXT,
    purpose=TEXT,
    status=_only("processed"),
)
ERROR = _closed("error", error=_closed("message type", message=TEXT, type=TEXT))


def _parts() -> Schema:
    url = {
        "type": "string",
        "description": "data:video/...;base64, or file:// or http(s)://, or the id of an upload or of a sample",
    }
    return {
        "anyOf": [
            _object("type text", type=_only("text"), text=TEXT),
            _object("type video_url", type=_only("video_url"), video_url=_object("url", url=url)),
            _object("type file", type=_only("file"), file=_object("file_id", file_id=TEXT)),
            _object("type image_url", type=_only("image_url"), image_url=_object("url", url=TEXT)),
        ]
    }


def _question(settings: ServerSettings) -> Schema:
    tokens = _or_null({"type": "integer", "minimum": 1, "maximum": 1_000_000})
    frames = _or_null({"type": "integer", "minimum": 1, "maximum": settings.limits.max_num_frames})
    video = _or_null(_closed("", num_frames=frames))
    message = _closed("role content", role=_only("user"), content=_list(_parts(), minItems=2), name=ANYTHING)
    return _closed(
        "messages",
        messages=_list(message, minItems=1, maxItems=1),
        model=_only(settings.model, None),
        task=_only(*TASK_LIMITS, None),
        max_tokens=tokens,
        max_completion_tokens=tokens,
        media_io_kwargs=_or_null(_closed("", video=video)),
        stream=_only(True, False, None),
        stream_options=_or_null(_closed("", include_usage=_or_null(FLAG))),
        include_experts=_or_null(FLAG),
        include_tracks=_or_null(FLAG),
        chat_template_kwargs=_or_null(_closed("", enable_thinking=_only(False))),
        n=_only(1, None),
        temperature=_only(0, None),
        presence_penalty=_only(0, None),
        frequency_penalty=_only(0, None),
        top_p=ANYTHING,
        seed=ANYTHING,
        user=ANYTHING,
        metadata=ANYTHING,
    )


def _content(kind: str, schema: Schema) -> Schema:
    return {"content": {kind: {"schema": schema}}}


def _answers(*statuses: int, **good: Schema) -> Schema:
    """Responses: ``ok`` is status 200, ``statuses`` are refusals; some belong to every path."""
    refusals = {
        str(s): {"description": "refused", **_content("application/json", ERROR)} for s in (401, 403, *statuses)
    }
    return {"200": {"description": "done", **good}, **refusals}


def _json(schema: Schema) -> Schema:
    return _content("application/json", schema)["content"]


def _listed(rows: Schema) -> Schema:
    return _object("object data", object=_only("list"), data=_list(rows))


def _id(name: str) -> Schema:
    return {
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]
    }


def _paths(settings: ServerSettings) -> Schema:
    words = {"id": TEXT, "object": TEXT, "created": WHOLE, "owned_by": TEXT, "draws_masks": FLAG}
    model = _object(" ".join(words), **words)
    sample = _object("id name duration_s prompts", id=TEXT, name=TEXT, duration_s=SECONDS, prompts=_list(TEXT))
    deleted = _object("id object deleted", id=TEXT, object=_only("file"), deleted=_only(True))
    chunks = {"text/event-stream": {"schema": {**_object("data", data=TEXT), "description": "one event"}}}
    form = _closed("file", file={"type": "string", "format": "binary"}, purpose=TEXT)
    any_video = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    part = {"206": {"description": "the asked range", **any_video}}
    ranged = {"in": "header", "name": "Range", "schema": {"type": "string", "pattern": "^bytes=[0-9]{1,9}-$"}}
    chat = {
        "operationId": "chat",
        "summary": "When does something happen in a video?",
        "requestBody": {"required": True, **_content("application/json", _question(settings))},
        "responses": _answers(400, 404, 408, 411, 413, 415, 429, 503, 507, content={**_json(COMPLETION), **chunks}),
    }
    upload = {
        "operationId": "upload",
        "requestBody": {"required": True, **_content("multipart/form-data", form)},
        "responses": _answers(400, 408, 411, 413, 415, 429, 507, content=_json(FILE)),
    }

    def get(name: str, content: Schema, *statuses: int) -> Schema:
        return {"operationId": name, "responses": _answers(*statuses, content=content)}

    def video(name: str) -> Schema:
        responses = {**_answers(400, 404, 416, **any_video), **part}
        return {"operationId": name, "parameters": [ranged], "responses": responses}

    return {
        "/v1/chat/completions": {"post": chat},
        "/v1/models": {"get": get("models", _json(_listed(model)))},
        "/v1/files": {"post": upload, "get": get("files", _json(_listed(FILE)))},
        "/v1/files/{file_id}": {
            **_id("file_id"),
            "get": get("file", _json(FILE), 404),
            "delete": get("delete", _json(deleted), 404),
        },
        "/v1/files/{file_id}/content": {**_id("file_id"), "get": video("file_content")},
        "/samples": {"get": get("samples", _json(_list(sample)))},
        "/samples/{sample_id}/content": {**_id("sample_id"), "get": video("sample_content")},
        "/healthz": {"get": get("health", _json(_object("status", status=_only("ok"))))},
        "/readyz": {"get": get("ready", _json(_object("status model", status=_only("ready"), model=TEXT)), 503)},
        "/metrics": {"get": get("metrics", {"text/plain": {"schema": TEXT}})},
    }


def document(settings: ServerSettings) -> Schema:
    """OpenAPI 3.1 for a server with ``settings``."""
    key: Schema = {}
    if settings.api_key is not None:
        schemes = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
        key = {"components": schemes, "security": [{"key": []}]}
    about = {"title": "TimeExpert", "version": timeexpert.__version__, "summary": "videos in, timed events out"}
    return {"openapi": "3.1.0", "info": about, **key, "paths": _paths(settings)}
