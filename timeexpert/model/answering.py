"""Questions and answers, and what a family of models says of itself to be asked: :class:`Answering`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from timeexpert.data.batch import Frames, join_frames
from timeexpert.data.collate import EventWriter, RowWriter
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.tokenization import (
    EventCodec,
    EventGrammar,
    EventSequence,
    GrammarLimits,
    NumericVocab,
    Problem,
)
from timeexpert.tokenization.grammar import AnyToken
from timeexpert.tokenization.text import TextTokenizer

from .confidence import Confidence, event_confidences
from .decoding import (
    STEP_TOKENS,
    EncodedVideo,
    Grammar,
    Sampler,
    Writing,
    begin,
    encode_question,
    encode_video,
    step,
)
from .generation import RefusedTokens, plain_text
from .timeexpert import TimeExpert
from .tower import Tower

# What an answer of each task looks like: times per event, scores per event. Free prompts may be anything.
TASK_LIMITS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "general": ((0,), (0,)),
    "dense_captioning": ((2,), (0,)),
    "action_segmentation": ((2,), (0,)),
    "moment_retrieval": ((2,), (0,)),
    "highlight_detection": ((1,), (1,)),
    "referring_segmentation": ((0,), (0,)),  # of models that draw masks: what is shown has no time of its own
}


@dataclass(frozen=True)
class Clip:
    """Sampled frames of one video (uint8 [n, H, W, 3], or features of them), their times, its duration (seconds)."""

    frames: Frames
    times_s: np.ndarray
    duration_s: float


@dataclass(frozen=True)
class Request:
    """One question about one clip. ``task`` narrows the answer (see ``TASK_LIMITS``); ``max_tokens`` is an upper limit
    of the answer within the model's own. Without ``masks`` none are computed, also where the answer names objects."""

    clip: Clip
    prompt: str
    task: str | None = None
    max_tokens: int | None = None
    masks: bool = True


@dataclass(frozen=True)
class Prediction:
    """The answer: events, what did not parse, which frame times the model saw, and how many tokens it took
    (visual and frame-time tokens are the prompt's, the end of sequence is the completion's). ``text`` is the answer
    as it was written. ``confidences``: one per event, see
    :func:`timeexpert.model.confidence.event_confidences`; none where numbers are words. ``tracks``: the masks of each
    object that the answer shows, of any one size; where a video is scaled to it, they lie on its frames."""

    events: EventSequence
    problems: list[Problem] = field(default_factory=list)
    frame_times_s: tuple[float, ...] = ()
    duration_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    text: str = ""
    confidences: list[Confidence] = field(default_factory=list)
    tracks: tuple[MaskTrack, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON object; times in seconds. ``tracks`` only where there are any."""
        tracks = {"tracks": [track.to_json() for track in self.tracks]} if self.tracks else {}
        return {
            "events": self.events.to_json(),
            "problems": [{"position": p.position, "reason": p.reason} for p in self.problems],
            "frame_times_s": list(self.frame_times_s),
            "duration_s": self.duration_s,
            **tracks,
        }


@dataclass(frozen=True)
class Budget:
    """What an answer may take. ``free``: without the grammar, so that it may not parse."""

    max_tokens: int
    max_events: int
    free: bool = False


class Answering(ABC):
    """How one model is asked: which ids stand for video and question, which tokens an answer may have, what it says.

    ``image_size``: side of the square frames. ``room``: tokens of prompt and answer together. ``plain`` (V,) bool: the
    tokens that may stand inside text. ``tower``: what features in place of frames must be of; None where the model
    takes frames only.
    """

    image_size: int
    room: int
    plain: Tensor
    tower: Tower | None = None

    def __init__(self, model: Any, writer: RowWriter) -> None:
        self.model, self.writer = model, writer

    @cached_property
    def _refused(self) -> RefusedTokens:
        return RefusedTokens(self.plain)

    @abstractmethod
    def visual_tokens(self, clip: Clip) -> Tensor:
        """The visual tokens (..., D) of a clip. Raises ``UserError`` for a clip that the model cannot take."""

    @abstractmethod
    def grammar(self, request: Request, budget: Budget) -> Grammar:
        """Which tokens the answer may have. Raises ``UserError`` where the budget holds no answer."""

    @abstractmethod
    def told(
        self, tokens: Sequence[int], task: str | None, clip: Clip | None = None
    ) -> tuple[EventSequence, list[Problem], str]:
        """The events of a finished answer, what of it did not parse, and its text. ``clip``: what was asked about."""

    @abstractmethod
    def events_so_far(self, tokens: Sequence[int], task: str | None) -> EventSequence:
        """The events of an unfinished answer that more tokens can only make longer."""

    def confidences(self, answer: Writing) -> list[Confidence]:
        """How sure the model was of each event's numbers; empty where that is not known."""
        return []

    def tracks(self, request: Request, answer: Writing) -> tuple[MaskTrack, ...]:
        """The masks of each object that a finished answer shows, in the order of their names; none by default."""
        return ()

    def shown_s(self, times_s: Sequence[float] | np.ndarray) -> tuple[float, ...]:
        """Frame times as the model reads them."""
        return self.writer.shown_s(times_s)

    def question_ids(self, request: Request) -> list[int]:
        """Ids behind the video, up to where the answer begins."""
        return self.writer.question(request.prompt, self.shown_s(request.clip.times_s), request.task)

    def encode(self, visual: Tensor, times_s: Sequence[float] | np.ndarray) -> EncodedVideo:
        """What the decoder keeps of a video. Raises ``UserError`` for a time that the model cannot read."""
        return encode_video(self.model, self.writer.video(self.shown_s(times_s)), visual)

    def prompt(self, request: Request, video: EncodedVideo) -> tuple[EncodedVideo, list[int]]:
        """What is encoded of the prompt of an answer, and the ids behind it."""
        return video, self.question_ids(request)

    def begin(self, request: Request, video: EncodedVideo, budget: Budget, *, record: bool = False) -> Writing:
        """An answer whose question is still to be read. ``record`` keeps who computes each token."""
        video, question = self.prompt(request, video)
        return begin(self.model, video, question, self.grammar(request, budget), record=record)

    def begin_drawn(
        self, request: Request, video: EncodedVideo, budget: Budget, samplers: Sequence[Sampler]
    ) -> list[Writing]:
        """An answer drawn by each of ``samplers`` to one question, which is read once."""
        video, question = self.prompt(request, video)
        prompt, grammar = encode_question(self.model, video, question), self.grammar(request, budget)
        return [begin(self.model, prompt, question[-1:], grammar, sampler=sampler) for sampler in samplers]

    def step(self, answers: Sequence[Writing], slots: int = STEP_TOKENS) -> None:
        """Go on with each answer."""
        step(self.model, answers, self._refused, slots)


class EventAnswering(Answering):
    """TimeExpert: answers are event sequences under the grammar, so that each of them parses."""

    model: TimeExpert

    def __init__(self, model: TimeExpert, text: TextTokenizer) -> None:
        formats = model.config
        self.codec = EventCodec(text, formats.time_format, formats.score_format)
        super().__init__(model, EventWriter(self.codec, text, formats.tokens_per_frame))
        self.image_size = formats.vision_config.image_size
        self.room = formats.text_config.max_position_embeddings
        self.plain = plain_text(self.codec.ids, text.special_ids)
        self.tower = model.features_tower

    def visual_tokens(self, clip: Clip) -> Tensor:
        """Frames, or features of them, through tower and compressor: (n, tokens per frame, D)."""
        device = next(self.model.parameters()).device
        visual: Tensor = self.model.frame_encoder(join_frames([clip.frames]).to(device))
        return visual

    def grammar(self, request: Request, budget: Budget) -> Grammar:
        """The task's counts, times within the video, the budget."""
        if budget.free:
            return AnyToken(self.codec.ids, self.codec.text.eos_id, budget.max_tokens)
        times, scores = TASK_LIMITS.get(request.task or "", ((0, 1, 2), (0, 1)))
        limits = GrammarLimits(
            times=times,
            scores=scores,
            max_events=1 if times == (0,) else budget.max_events,
            max_tokens=budget.max_tokens,
            max_time_s=request.clip.duration_s,
        )
        return EventGrammar(self.codec, limits)

    def told(
        self, tokens: Sequence[int], task: str | None, clip: Clip | None = None
    ) -> tuple[EventSequence, list[Problem], str]:
        """As :meth:`EventCodec.decode` and :meth:`EventCodec.transcript`."""
        return *self.codec.decode(tokens), self.codec.transcript(tokens)

    def events_so_far(self, tokens: Sequence[int], task: str | None) -> EventSequence:
        """An event counts from the moment its numbers are complete."""
        ids, eos = self.codec.ids, self.codec.text.eos_id
        last = max((i for i, token in enumerate(tokens) if token == ids.sync), default=len(tokens))
        numbers_complete = ids.score + NumericVocab.sync in tokens[last:]
        return self.codec.decode([*(tokens if numbers_complete else tokens[:last]), eos])[0]

    def confidences(self, answer: Writing) -> list[Confidence]:
        """Probabilities of the digits."""
        return event_confidences(self.codec, answer.tokens, answer.logprobs)


def plain_pieces(text: TextTokenizer) -> Tensor:
    """(vocab_size,) bool: the text pieces that may stand inside an answer in words."""
    plain = torch.ones(text.vocab_size, dtype=torch.bool)
    plain[list(text.special_ids)] = False
    return plain


__all__ = [
    "TASK_LIMITS",
    "Answering",
    "Budget",
    "Clip",
    "EventAnswering",
    "Prediction",
    "Request",
    "plain_pieces",
]
