"""Answers written token by token, a number of rows side by side, each as if it were alone.

A prompt is a video, then a question. The video's part is encoded once and shared by its questions; it and the question
pass the decoder in a batch of one, without padding. Steps always have as many rows, empty ones included, and each row
attends to its own keys. So with :data:`STEP_ROWS` every matrix product has the same shape whoever is answered beside,
and an answer is the same to the last bit. On a CPU tests hold this; on a GPU it depends on the kernels. More rows take
the experts' path of many tokens, whose rounding depends on the company.

R rows of a step, S tokens, L layers, E expert slots.
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

from .generation import allowed_tokens
from .row_cache import RowCache, StepCache

STEP_ROWS = 8


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

        Returns hidden states (B, S, D) and one routing per MoE layer. With a :class:`StepCache` S is 1 and
        ``position_ids`` (B, 1) are given.
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
            return cls(torch.empty(0, dtype=torch.bool), torch.empty(0, dtype=torch.bool))
        mask = torch.stack([routing.mask_TE[rows] for routing in routings])
        return cls(mask.cpu(), torch.stack([routing.fallback_T[rows] for routing in routings]).cpu())


@dataclass(frozen=True)
class EncodedVideo:
    """A prompt up to its question: ids, and per layer the keys and values (1, H, S, C) that the decoder keeps of it."""

    ids: tuple[int, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    routed: Routed

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values, self.routed.mask, self.routed.fallback))


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

    @property
    def done(self) -> bool:
        """Whether it is closed: by its end of sequence, or by its budget."""
        budget = self.grammar.max_tokens
        ended = bool(self.tokens) and self.tokens[-1] == self.grammar.eos_id
        return ended or (budget is not None and len(self.tokens) >= budget)


def encode_video(model: Decodes, ids: Sequence[int], visual: Tensor) -> EncodedVideo:
    """``ids`` (S,) up to the question, ``visual`` (..., D): the visual tokens of a video."""
    input_ids = torch.tensor([ids], device=visual.device)
    cache = DynamicCache(config=model.config.text_config)
    _, routings = model.read(input_ids, visual, cache=cache)
    keys, values = zip(*((layer.keys, layer.values) for layer in cache.layers), strict=True)
    return EncodedVideo(tuple(ids), keys, values, Routed.of(routings))


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt up to where its answer begins: as :class:`EncodedVideo`, and the first token's ``logits`` (1, V)."""

    ids: tuple[int, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    routed: tuple[Routed, ...]
    logits: Tensor


def encode_question(model: Decodes, video: EncodedVideo, question: Sequence[int]) -> EncodedPrompt:
    """Read the question's ids behind the video."""
    input_ids = torch.tensor([question], device=video.keys[0].device)
    cache = DynamicCache(config=model.config.text_config)
    for layer, (key, value) in enumerate(zip(video.keys, video.values, strict=True)):
        cache.update(key, value, layer)
    hidden, routings = model.read(input_ids, cache=cache)
    keys, values = zip(*((layer.keys, layer.values) for layer in cache.layers), strict=True)
    routed = (video.routed, Routed.of(routings))
    return EncodedPrompt((*video.ids, *question), keys, values, routed, model.logits(hidden[:, -1]))


def begin(
    prompt: EncodedPrompt,
    grammar: Grammar,
    plain: Tensor,
    *,
    record: bool = False,
    sampler: Sampler | None = None,
) -> Writing:
    """Write the first token of an answer; a prompt may have several. ``grammar`` has a budget of tokens; ``plain`` (V,)
    bool: the tokens that may stand inside text (:func:`timeexpert.model.generation.plain_text`)."""
    assert grammar.max_tokens is not None
    room = len(prompt.ids) + grammar.max_tokens
    answer = Writing(grammar, list(prompt.ids), RowCache(prompt.keys, prompt.values, room), sampler=sampler)
    if record:
        answer.routed = list(prompt.routed)
    _write([answer], prompt.logits, plain)
    return answer


def step(model: Decodes, answers: Sequence[Writing], plain: Tensor, rows: int = STEP_ROWS) -> None:
    """Write the next token of each of up to ``rows`` answers that are not done."""
    assert 0 < len(answers) <= rows and not any(answer.done for answer in answers)
    empty = rows - len(answers)
    device = answers[0].cache.keys[0].device
    input_ids = torch.tensor([[answer.tokens[-1]] for answer in answers] + [[0]] * empty, device=device)
    positions = torch.tensor([[answer.cache.length] for answer in answers] + [[0]] * empty, device=device)
    cache = StepCache([answer.cache for answer in answers])
    hidden, routings = model.read(input_ids, cache=cache, position_ids=positions)
    cache.advance()
    for i, answer in enumerate(answers):
        if answer.routed is not None:
            answer.routed.append(Routed.of(routings, slice(i, i + 1)))
    _write(answers, model.logits(hidden[:, 0]), plain)


def _write(answers: Sequence[Writing], logits: Tensor, plain: Tensor) -> None:
    """The likeliest token that the grammar allows, or a drawn one, for each answer; logits (R, V), empty rows last."""
    allowed = allowed_tokens([answer.grammar.allowed(answer.tokens) for answer in answers], plain)
    scores = logits[: len(answers)].float().masked_fill(~allowed.to(logits.device), float("-inf"))
    for row, answer in zip(scores, answers, strict=True):
        if answer.sampler is not None:
            row /= answer.sampler.temperature
    chosen, all_logprobs = scores.argmax(-1, keepdim=True), scores.log_softmax(-1)
    for i, answer in enumerate(answers):
        if answer.sampler is not None:
            chosen[i] = answer.sampler.draw(all_logprobs[i].cpu())
    logprobs = all_logprobs.gather(1, chosen)
    for answer, token, logprob in zip(answers, chosen[:, 0].tolist(), logprobs[:, 0].tolist(), strict=True):
        answer.tokens.append(token)
        answer.logprobs.append(logprob)
