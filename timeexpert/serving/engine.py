"""The engine: one model, one thread; questions in, tickets out, answers by :class:`timeexpert.predict.Predictor`."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from timeexpert.predict import Clip, Prediction, Predictor, Request
from timeexpert.tokenization.grammar import GrammarError
from timeexpert.tokenization.number_format import NumberFormatError
from timeexpert.tokenization.text import TextError

from .limits import RequestError, ServingLimits
from .media import DecodedVideo, Decoder
from .readable import readable


class Busy(RequestError):
    """The queue is full; ask again after ``retry_after_s`` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(
            "too many questions are waiting; try again soon.",
            429,
            "overloaded_error",
            {"Retry-After": str(retry_after_s)},
        )
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Video:
    """A video file that stays readable while its question is answered, and the SHA-256 (hex) of its bytes."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class FrameSequence:
    """Frames uint8 [n, H, W, 3] and their times in seconds [n], rising."""

    frames: np.ndarray
    times_s: np.ndarray


@dataclass(frozen=True)
class Question:
    """One question about one video, checked. ``None``: as the model was trained (frames, tokens), any task."""

    video: Video | FrameSequence
    prompt: str
    task: str | None = None
    num_frames: int | None = None
    max_tokens: int | None = None
    experts: bool = False


@dataclass(frozen=True)
class Reply:
    """The model's answer; ``cut`` when it used up its tokens; ``damage`` says what of the video was unreadable."""

    prediction: Prediction
    confidences: list[dict[str, float | None]] = field(default_factory=list)
    cut: bool = False
    damage: str | None = None
    timings: dict[str, float] = field(default_factory=dict)
    experts: dict[str, Any] | None = None


class Ticket:
    """A question that was accepted. ``result()`` waits for its reply, ``cancel()`` gives it up."""

    def __init__(self, future: Future[Reply]) -> None:
        self._future = future

    def result(self, timeout: float | None = None) -> Reply:
        """Raises :class:`RequestError`, also where the question was cancelled; ``TimeoutError``."""
        try:
            return self._future.result(timeout)
        except CancelledError:
            raise RequestError("the request was cancelled.", 499, "cancelled") from None
        except FutureTimeoutError:
            raise TimeoutError from None

    def events(self) -> Iterator[str]:
        """Pieces of the answer's text. Raises what :meth:`result` raises."""
        for i, event in enumerate(self.result().prediction.events):
            yield ("\n" if i else "") + readable(event)

    def cancel(self) -> None:
        """A question that still waits is not answered any more."""
        self._future.cancel()


class Engine:
    """Answers questions, one at a time, from any thread. Use as a context manager: it owns a decoder process."""

    def __init__(self, predictor: Predictor, name: str, limits: ServingLimits | None = None) -> None:
        self.predictor, self.name = predictor, name
        self.limits = limits or ServingLimits()
        self._decoder = Decoder(predictor.model.config.vision_config.image_size, self.limits)
        self._thread = ThreadPoolExecutor(1, "model")
        self._waiting = 0
        self._counts: Counter[str] = Counter(answered=0, failed=0, cancelled=0)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._decoder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._decoder.__exit__(kind, error, trace)

    def submit(self, question: Question) -> Ticket:
        """Raises :class:`Busy` where too many questions wait."""
        with self._lock:
            if self._waiting >= self.limits.max_queue:
                raise Busy(1)
            self._waiting += 1
        future = self._thread.submit(self._answer, question, time.monotonic())
        future.add_done_callback(self._done)
        return Ticket(future)

    def stats(self) -> dict[str, float]:
        """Counters since the start, and the length of the queue now."""
        with self._lock:
            return {"queue_length": self._waiting, **self._counts}

    def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is being answered. False where time ran out."""
        end = time.monotonic() + timeout_s
        while self.stats()["queue_length"]:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        return True

    def _done(self, future: Future[Reply]) -> None:
        with self._lock:
            self._waiting -= 1
            done = "cancelled" if future.cancelled() else "failed" if future.exception() else "answered"
            self._counts[done] += 1

    def _answer(self, question: Question, asked_s: float) -> Reply:
        """Decode, ask, and answer. Raises :class:`RequestError` for what the asker can mend."""
        started_s = time.monotonic()
        config = self.predictor.config
        # a longer answer than the model's own limit is never given, which any larger max_tokens allows
        budget = min(question.max_tokens or config.max_new_tokens, config.max_new_tokens)
        predictor = self.predictor.with_config(max_new_tokens=budget)
        video = self._frames(question, config.num_frames)
        decoded_s = time.monotonic()
        request = Request(Clip(video.frames, video.times_s, video.duration_s), question.prompt, question.task)
        try:
            self._check_length(predictor, request, budget)
            prediction = predictor.answer([request])[0]
        except TextError:  # its text may name the tokenizer's folder
            raise RequestError("text: the model's vocabulary cannot write it. Leave unusual characters out.") from None
        except (GrammarError, NumberFormatError) as error:
            raise RequestError(str(error)) from None
        timings = {
            "queue_s": started_s - asked_s,
            "decode_s": decoded_s - started_s,
            "encode_s": 0.0,
            "generate_s": time.monotonic() - decoded_s,
        }
        nothing: dict[str, float | None] = {"start": None, "end": None, "score": None}
        confidences = [dict(nothing) for _ in prediction.events]
        return Reply(prediction, confidences, prediction.completion_tokens >= budget, video.damage, timings)

    def _frames(self, question: Question, num_frames: int) -> DecodedVideo:
        if isinstance(question.video, Video):
            return self._decoder(question.video.path, question.num_frames or num_frames)
        times_s = question.video.times_s
        gap_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
        return DecodedVideo(question.video.frames, times_s, float(times_s[-1]) + gap_s, None)

    @staticmethod
    def _check_length(predictor: Predictor, request: Request, budget: int) -> None:
        prompt, room = len(predictor.prompt_ids(request)[0]), predictor.model.config.text_config.max_position_embeddings
        if prompt + budget > room:
            raise RequestError(
                f"{len(request.clip.frames)} frames and the text take {prompt} tokens; with {budget} for the answer "
                f"that is more than the model's {room}. Ask for fewer frames (media_io_kwargs.video.num_frames) or "
                "less text."
            )
