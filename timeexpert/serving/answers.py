"""A reply as OpenAI's JSON: whole, or as chunks of a stream."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from .answer_text import readable
from .engine import Reply


def details(reply: Reply) -> dict[str, Any]:
    """What this server adds to OpenAI's message: ``events`` to compute with. Times in seconds."""
    prediction = reply.prediction.to_json()
    nothing: dict[str, float | None] = {"start": None, "end": None, "score": None}
    confidences = reply.confidences or [nothing] * len(prediction["events"])
    events = [
        {**event, "confidence": confidence} for event, confidence in zip(prediction["events"], confidences, strict=True)
    ]
    added = {"events": events, "video_damage": reply.damage, "timings": reply.timings}
    experts = {} if reply.experts is None else {"experts": reply.experts}
    return {**prediction, **added, **experts}


def _usage(reply: Reply) -> dict[str, int]:
    prompt, answer = reply.prediction.prompt_tokens, reply.prediction.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def completion(reply: Reply, model: str) -> dict[str, Any]:
    """The response body: ``content`` to read, ``events`` to compute with."""
    content = "\n".join(readable(event) for event in reply.prediction.events)
    message = {"role": "assistant", "content": content, **details(reply)}
    return {
        **_envelope(model, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": _reason(reply)}],
        "usage": _usage(reply),
    }


class Chunks:
    """The chunks of one streamed answer, as server-sent events."""

    def __init__(self, model: str, *, usage: bool) -> None:
        self._head, self._with_usage = _envelope(model, "chat.completion.chunk"), usage

    def text(self, text: str, *, first: bool = False) -> bytes:
        """A piece of the text; the first one says who speaks."""
        role = {"role": "assistant"} if first else {}
        return self._chunk({"index": 0, "delta": {**role, "content": text}, "finish_reason": None})

    def last(self, reply: Reply) -> bytes:
        """The events beside an empty delta, the usage where it was asked for, and the end."""
        choice = {"index": 0, "delta": {}, "finish_reason": _reason(reply), **details(reply)}
        usage = _event({**self._head, "choices": [], "usage": _usage(reply)}) if self._with_usage else b""
        # OpenAI's clients read the usage from a chunk of its own; the events stay in the last one that has a choice
        return self._chunk(choice) + usage + b"data: [DONE]\n\n"

    def error(self, message: str, kind: str) -> bytes:
        """A failure after the first piece; nothing follows it."""
        return _event({"error": {"message": message, "type": kind}})

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return _event({**self._head, "choices": [choice]})


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, allow_nan=False).encode("ascii") + b"\n\n"


def _envelope(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _reason(reply: Reply) -> str:
    return "length" if reply.cut else "stop"
