"""Answers written token by token, up to :data:`STEP_ROWS` side by side, each as if it were alone.

A prompt is a video, then a question. The video's part passes the decoder once, in a batch of one, and is shared by its
questions. Everything behind it is read in steps: of each answer up to :data:`READ_TOKENS` tokens that are known and not
read yet, which are its question at first, then what it wrote last, with what the grammar leaves no choice about. A step
has :data:`STEP_TOKENS` slots, empty ones included, and each row attends to its own keys. So every matrix product has
the same shape whoever is answered beside, and an answer is the same to the last bit. On a CPU tests hold this; on a GPU
it depends on the kernels.

R answers of a step, N slots, S tokens, L layers, E expert slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from timeexpert.errors import UserError
from timeexpert.moe import Routing
from timeexpert.tokenization.grammar import Allowed

from .generation import RefusedTokens
from .row_cache import RowCache, StepCache

STEP_ROWS = 8
STEP_TOKENS = 24
READ_TOKENS = 8  # what an answer reads in a step depends on it alone: where fewer slots are left, it waits
LONG_QUESTION = 32  # tokens; a longer one passes the decoder in a batch of one, which takes less time than its steps


class Decodes(Protocol):
    """What writing needs of a model; ``config.text_config`` is its decoder's."""

    config: Any

    def read(
        self,
        input_ids: Tensor,
        visual: Tensor | None = None,
        *,
        cache: Cache | StepCache | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, list[Routing]]:
        """Pass ``input_ids`` (B, S), ``visual`` tokens in place of their placeholders, through the decoder.

        Returns hidden states (B, S, D) and one routing per MoE layer. With a :class:`StepCache` B are the slots of a
        step, S is 1 and ``position_ids`` (B, 1) are given.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V) over all ids that can be written."""
        ...


class Grammar(Protocol):
    """Which token may come next; ``max_tokens`` closes the answer, ``eos_id`` ends it."""

    @property
    def max_tokens(self) -> int | None: ...
    @property
    def eos_id(self) -> int: ...
    def allowed(self, answer: Sequence[int]) -> Allowed: ...


@dataclass(frozen=True)
class Routed:
    """Who computed a run of tokens: ``mask`` (L, S, E) bool, and ``fallback`` (L, S) where no expert accepted one."""

    mask: Tensor
    fallback: Tensor

    @classmethod
    def of(cls, routings: Sequence[Routing], rows: slice = slice(None)) -> Routed:
        """From the routings of all layers; ``rows`` picks tokens. Of a model without experts nothing is kept."""
        if not routings:
            return cls(torch.empty(0, 0, 0, dtype=torch.bool), torch.empty(0, 0, dtype=torch.bool))
        mask = torch.stack([routing.mask_TE[rows] for routing in routings])
        return cls(mask.cpu(), torch.stack([routing.fallback_T[rows] for routing in routings]).cpu())


@dataclass(frozen=True)
class EncodedVideo:
    """The beginning of a prompt: ids, and the keys and values (L, 1, H, S, C) that the decoder keeps of it."""

    ids: tuple[int, ...]
    keys: Tensor
    values: Tensor
    routed: Routed

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in (self.keys, self.values, self.routed.mask, self.routed.fallback))


@dataclass
class Sampler:
    """Draws an answer's tokens at a temperature, from random numbers of its own."""

    temperature: float
    rng: np.random.Generator

    def draw(self, logprobs: Tensor) -> int:
        """A token, given the log-probabilities (V,) of all at this temperature. Raises ``UserError`` for NaN."""
        reached = logprobs.double().exp().cumsum(0)
        if not torch.isfinite(reached[-1]):
            raise UserError(
                "the model's probabilities are not finite: its weights are damaged. Go back to an earlier checkpoint."
            )
        # "right": a token of probability 0 reaches no further than the one before it, so it is never the first above
        return int(torch.searchsorted(reached, self.rng.random() * float(reached[-1]), right=True))


@dataclass
class Writing:
    """One answer in the making. ``logprobs``: of each token under the grammar, natural logarithm.

    Tokens are the likeliest ones, or drawn by ``sampler``; then ``logprobs`` are those at its temperature.

    ``routed``: the prompt's tokens, then the answer's, one entry per pass through the decoder, if they are recorded.
    The end of sequence is written and never read, so it has no entry.
    """

    grammar: Grammar
    prompt_ids: list[int]
    cache: RowCache
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    routed: list[Routed] | None = None
    sampler: Sampler | None = None
    next: Allowed = field(init=False)

    def __post_init__(self) -> None:
        self._go_on()

    @property
    def done(self) -> bool:
        """Whether it is closed: by its end of sequence, or by its budget."""
        budget = self.grammar.max_tokens
        ended = bool(self.tokens) and self.tokens[-1] == self.grammar.eos_id
        return ended or (budget is not None and len(self.tokens) >= budget)

    @property
    def unread(self) -> list[int]:
        """The tokens that are known and have not passed the decoder; as long as it is not done, at least one."""
        start = self.cache.length - len(self.prompt_ids)
        return self.tokens[start:] if start >= 0 else [*self.prompt_ids[start:], *self.tokens]

    def write(self, token: int, logprob: float) -> None:
        """One of the tokens that ``next`` allows."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self._go_on()

    def _go_on(self) -> None:
        """Write what the grammar leaves no choice about, and note what it allows next. An end is never written so:
        every token before it is read."""
        while not self.done:
            self.next = self.grammar.allowed(self.tokens)
            if self.next.text or len(self.next.ids) != 1 or self.next.ids[0] == self.grammar.eos_id:
                return
            self.tokens.append(self.next.ids[0])
            self.logprobs.append(0.0)


def encode_video(model: Decodes, ids: Sequence[int], visual: Tensor) -> EncodedVideo:
    """``ids`` (S,) up to the question, ``visual`` (..., D): the visual tokens of a video."""
    cache = DynamicCache(config=model.config.text_config)
    _, routings = model.read(torch.tensor([ids], device=visual.device), visual, cache=cache)
    return EncodedVideo(tuple(ids), *_kept(cache), Routed.of(routings))


def encode_question(model: Decodes, video: EncodedVideo, question: Sequence[int]) -> EncodedVideo:
    """A video and all of a question about it but its last token, which every answer reads for itself."""
    *read, _ = question
    cache = DynamicCache(config=model.config.text_config)
    for layer, (key, value) in enumerate(zip(video.keys, video.values, strict=True)):
        cache.update(key, value, layer)
    _, routings = model.read(torch.tensor([read], device=video.keys.device), cache=cache)
    before, routed = video.routed, Routed.of(routings)
    joined = Routed(torch.cat([before.mask, routed.mask], 1), torch.cat([before.fallback, routed.fallback], 1))
    return EncodedVideo((*video.ids, *read), *_kept(cache), joined)


def _kept(cache: DynamicCache) -> tuple[Tensor, Tensor]:
    """The keys and the values of all layers."""
    return torch.stack([layer.keys for layer in cache.layers]), torch.stack([layer.values for layer in cache.layers])


def begin(
    model: Decodes,
    video: EncodedVideo,
    question: Sequence[int],
    grammar: Grammar,
    *,
    record: bool = False,
    sampler: Sampler | None = None,
) -> Writing:
    """An answer whose question is still to be read. ``grammar`` has a budget of tokens."""
    assert grammar.max_tokens is not None and question
    if len(question) > LONG_QUESTION:
        video, question = encode_question(model, video, question), question[-1:]
    prompt = [*video.ids, *question]
    row = RowCache(video.keys, video.values, len(prompt) + grammar.max_tokens)
    return Writing(grammar, prompt, row, routed=[video.routed] if record else None, sampler=sampler)


def step(model: Decodes, answers: Sequence[Writing], refused: RefusedTokens, slots: int = STEP_TOKENS) -> None:
    """Go on with up to ``slots`` answers that are not done: as many as have room read a token or more, the first one
    always, and an answer that has read all it knows writes the next. ``refused``: of the model's vocabulary.

    With more than ``STEP_TOKENS`` slots the experts take their path of many tokens, whose rounding depends on the
    company.
    """
    assert 0 < len(answers) <= slots and not any(answer.done for answer in answers)
    reading: list[tuple[Writing, list[int]]] = []
    spare, tokens = slots, list[int]()
    for answer in answers:  # who came first reads first
        part = answer.unread[:READ_TOKENS]
        if len(part) <= spare:
            reading.append((answer, part))
            spare -= len(part)
            tokens += part
    cache = StepCache([answer.cache for answer, _ in reading], [len(part) for _, part in reading])
    read = torch.tensor([[*tokens, *[0] * spare], [*cache.positions, *[0] * spare]], device=cache.device)
    input_ids, position_ids = read[:, :, None]
    hidden, routings = model.read(input_ids, cache=cache, position_ids=position_ids)
    cache.advance()
    end, ready, last = 0, [], []
    for answer, part in reading:
        end += len(part)
        if answer.routed is not None:
            answer.routed.append(Routed.of(routings, slice(end - len(part), end)))
        if not answer.unread:
            ready.append(answer)
            last.append(end - 1)
    if ready:
        _write(ready, model.logits(hidden[:, 0])[last], refused)


def _write(answers: Sequence[Writing], logits: Tensor, refused: RefusedTokens) -> None:
    """The likeliest token that the grammar allows, or a drawn one, for each answer; logits (R, V)."""
    mask = refused([answer.next for answer in answers]).to(logits.device)
    scores = logits.float().masked_fill(mask, float("-inf"))
    for row, answer in zip(scores, answers, strict=True):
        if answer.sampler is not None:
            row /= answer.sampler.temperature
    chosen, all_logprobs = scores.argmax(-1, keepdim=True), scores.log_softmax(-1)
    for i, answer in enumerate(answers):
        if answer.sampler is not None:
            chosen[i] = answer.sampler.draw(all_logprobs[i].cpu())
    logprobs = all_logprobs.gather(1, chosen)
    for answer, token, logprob in zip(answers, chosen[:, 0].tolist(), logprobs[:, 0].tolist(), strict=True):
        answer.write(token, logprob)
