"""A question that was handed in: its answer as it is written, its reply, and the way to give it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from timeexpert.model.confidence import Confidence
from timeexpert.predict import Prediction
from timeexpert.tokenization import EventSequence

from .answer_text import readable, text_so_far
from .limits import RequestError
from .opened import Identity

EventsSoFar = Callable[[list[int], str | None], EventSequence]  # of an answer's tokens and its question's task


@dataclass(frozen=True)
class Video:
    """A video file and the SHA-256 of its content, which names it in the caches.

    ``identity``: the file's state when its content was read; it is refused once it has another. Its path has no links.
    """

    path: Path
    sha256: str
    identity: Identity | None = None


@dataclass(frozen=True)
class FrameSequence:
    """Frames uint8 [n, H, W, 3] of any size and their times in seconds, in order."""

    frames: np.ndarray
    times_s: tuple[float, ...]


@dataclass(frozen=True)
class Question:
    """One question about one video, checked. ``None``: as the model was trained (frames, tokens), any task.

    ``experts``: the reply says which experts computed the answer. ``tracks``: it has the masks of what it shows.
    """

    video: Video | FrameSequence
    prompt: str
    task: str | None = None
    num_frames: int | None = None
    max_tokens: int | None = None
    experts: bool = False
    tracks: bool = False


@dataclass(frozen=True)
class Reply:
    """The model's answer.

    ``confidences``: per event, see :func:`timeexpert.model.confidence.event_confidences`. ``cut``: the answer used up
    its tokens. ``damage``: what of the video was unreadable. ``timings``: ``queue_s`` (all waiting), ``decode_s``,
    ``encode_s`` (both 0 where the video was known), ``generate_s``. ``experts``: see
    :func:`timeexpert.serving.expert_use.expert_use`.
    """

    prediction: Prediction
    confidences: list[Confidence] = field(default_factory=list)
    cut: bool = False
    damage: str | None = None
    timings: dict[str, float] = field(default_factory=dict)
    experts: dict[str, Any] | None = None


class Ticket:
    """One question on its way through the engine. Any thread may wait on it or cancel it."""

    def __init__(self, question: Question, so_far: EventsSoFar) -> None:
        self.question = question
        self.cancelled = False
        self.handed_in = time.monotonic()
        self._so_far = so_far
        self._changed = threading.Condition()
        self._closed = threading.Event()  # who waits for the reply alone is not woken by every token
        self._tokens: list[int] = []
        self._reply: Reply | None = None
        self._error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether there is a reply or an error."""
        return self._reply is not None or self._error is not None

    def events(self) -> Iterator[str]:
        """The answer's text, piece by piece as it is written; together it is ``readable`` of each event, in lines.

        Ends with the answer, and early where it fails: :meth:`result` then says why.
        """
        sent = ""
        while True:
            finished, tokens = self.done, self._tokens
            if self._reply is not None:
                text = "\n".join(readable(event) for event in self._reply.prediction.events)
            else:
                text = text_so_far(self._so_far(tokens, self.question.task))
            if len(text) > len(sent) and text.startswith(sent):
                yield text[len(sent) :]
                sent = text
            if finished:
                return
            self._wait_beyond(tokens)

    def _wait_beyond(self, tokens: list[int]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.done or self._tokens is not tokens)

    def result(self, timeout: float | None = None) -> Reply:
        """The reply. Raises :class:`RequestError` where there is none, ``TimeoutError`` after ``timeout`` seconds."""
        if not self._closed.wait(timeout):
            raise TimeoutError(f"no answer within {timeout:g} s")
        if self._error is not None:
            raise self._error
        assert self._reply is not None
        return self._reply

    def cancel(self) -> None:
        """Give the question up: at the next token nothing is computed for it any more."""
        self.cancelled = True

    # -- for the engine

    def wrote(self, tokens: list[int]) -> None:
        """The answer's tokens so far."""
        with self._changed:
            self._tokens = tokens
            self._changed.notify_all()

    def close(self, outcome: Reply | Exception) -> None:
        """The reply or the error; the first one stays."""
        with self._changed:
            if not self.done:
                if isinstance(outcome, Reply):
                    self._reply = outcome
                else:
                    self._error = outcome
            self._closed.set()
            self._changed.notify_all()


class Busy(RequestError):
    """The queue is full; ``retry_after_s`` is when a place may be free."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        message = f"{waiting} questions wait already; ask again in {retry_after_s} s."
        super().__init__(message, 429, "overloaded_error", {"Retry-After": str(retry_after_s)})
        self.retry_after_s = retry_after_s
