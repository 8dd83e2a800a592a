"""The engine: one model, one lock, questions in and answers out through :class:`timeexpert.predict.Predictor`."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from timeexpert.predict import Clip, Prediction, Predictor, Request
from timeexpert.tokenization.grammar import GrammarError
from timeexpert.tokenization.number_format import NumberFormatError
from timeexpert.tokenization.text import TextError

from .limits import RequestError, ServingLimits
from .media import Decoder


@dataclass(frozen=True)
class Question:
    """One question about one video, checked. ``None``: as the model was trained (frames, tokens), any task."""

    source: bytes | Path
    prompt: str
    task: str | None = None
    num_frames: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Reply:
    """The model's answer; ``cut`` when it used up its tokens; ``damage`` says what of the video was unreadable."""

    prediction: Prediction
    cut: bool = False
    damage: str | None = None


class Engine:
    """Answers questions, one at a time, from any thread. Use as a context manager: it owns a decoder process."""

    def __init__(self, predictor: Predictor, name: str, limits: ServingLimits | None = None) -> None:
        self.predictor, self.name = predictor, name
        self.limits = limits or ServingLimits()
        self._decoder = Decoder(predictor.model.config.vision_config.image_size, self.limits)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._decoder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoder.__exit__(kind, error, trace)

    def answer(self, question: Question) -> Reply:
        """Decode, ask, and answer. Raises :class:`RequestError` for what the asker can mend."""
        config = self.predictor.config
        # a longer answer than the model's own limit is never given, which any larger max_tokens allows
        budget = min(question.max_tokens or config.max_new_tokens, config.max_new_tokens)
        predictor = self.predictor.with_config(max_new_tokens=budget)
        video = self._decoder(question.source, question.num_frames or config.num_frames)
        request = Request(Clip(video.frames, video.times_s, video.duration_s), question.prompt, question.task)
        try:
            self._check_length(predictor, request, budget)
            with self._lock:
                prediction = predictor.answer([request])[0]
        except TextError:  # its text may name the tokenizer's folder
            raise RequestError("text: the model's vocabulary cannot write it. Leave unusual characters out.") from None
        except (GrammarError, NumberFormatError) as error:
            raise RequestError(str(error)) from None
        return Reply(prediction, prediction.completion_tokens >= budget, video.damage)

    @staticmethod
    def _check_length(predictor: Predictor, request: Request, budget: int) -> None:
        prompt, room = len(predictor.prompt_ids(request)[0]), predictor.model.config.text_config.max_position_embeddings
        if prompt + budget > room:
            raise RequestError(
                f"{len(request.clip.frames)} frames and the text take {prompt} tokens; with {budget} for the answer "
                f"that is more than the model's {room}. Ask for fewer frames (media_io_kwargs.video.num_frames) or "
                "less text."
            )
