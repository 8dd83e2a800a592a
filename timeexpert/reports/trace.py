"""Which experts computed each token of one answer: recorded while the model answers.

L decoder layers, E expert slots, N frames. Rates and thresholds are frozen at inference, so a token's experts do not
depend on what was asked before; one pass over prompt and answer together gives the same (tests hold this).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timeexpert.model.answering import EventAnswering
from timeexpert.predict import Prediction, Predictor, Request
from timeexpert.tokenization import EventCodec, TokenType

from .errors import ReportError

# How tokens that are no text are written: an event's <sync>, a list's <sep> and its closing <sync>.
EVENT, SEP, END = "\u25b8", ",", ";"
DRAWN_LAYERS = 4  # without --layer


@dataclass(frozen=True)
class TokenTrace:
    """One token of the answer. ``experts[layer]``: who computed it; ``fell_back[layer]``: whether none had accepted it.
    Tokens of one word (of one number, with the <sep> or <sync> behind it) share ``word``."""

    text: str
    type: str
    word: int
    experts: tuple[tuple[int, ...], ...]
    fell_back: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class FrameTrace:
    """One frame: shares of its visual tokens, and of its time's tokens, that each expert computed; (L, E)."""

    time_s: float
    vision: NDArray[np.float64]
    frame_time: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ExpertTrace:
    """Question, answer, and who computed it. The end of sequence is chosen, not computed: it has no experts.
    ``active[layer]``: experts in use."""

    request: Request
    prediction: Prediction
    router: str
    active: list[list[bool]]
    frames: list[FrameTrace]
    tokens: list[TokenTrace]

    def used(self, layers: Sequence[int]) -> list[int]:
        """Experts that computed a drawn token or frame in one of ``layers``."""
        found = {e for token in self.tokens for layer in layers for e in token.experts[layer]}
        for frame in self.frames:
            share = frame.vision[list(layers)] + frame.frame_time[list(layers)]
            found |= set(np.flatnonzero(share.sum(0)).tolist())
        return sorted(found)

    def to_json(self, layers: Sequence[int]) -> dict[str, Any]:
        """A JSON object; lists of ``experts`` follow ``layers``."""
        return {
            "prompt": self.request.prompt,
            "task": self.request.task,
            "router": self.router,
            "layers": list(layers),
            "active": [[e for e, on in enumerate(self.active[layer]) if on] for layer in layers],
            "tokens": [
                {
                    "text": token.text,
                    "type": token.type,
                    "word": token.word,
                    "experts": [list(token.experts[layer]) for layer in layers],
                    "fell_back": [token.fell_back[layer] for layer in layers],
                }
                for token in self.tokens
            ],
            "frames": [
                {
                    "time_s": frame.time_s,
                    "vision": [shares(frame.vision[layer]) for layer in layers],
                    "frame_time": [shares(frame.frame_time[layer]) for layer in layers],
                }
                for frame in self.frames
            ],
            **self.prediction.to_json(),
        }


def trace(predictor: Predictor, request: Request) -> ExpertTrace:
    """Ask one question and note who computes each token. Raises :class:`ReportError` for a model of single experts."""
    model = predictor.model
    active = [gate.active_experts.tolist() for gate in model.gates]
    if not active:
        raise ReportError(
            "this model has no experts: there is nothing to trace. Give a model of the family timeexpert."
        )
    if all(sum(on) == 1 for on in active):
        raise ReportError(
            "each layer of this model has one expert, which computes every token: there is nothing to trace. Give a "
            "model with more experts."
        )
    assert isinstance(predictor.answering, EventAnswering)
    model.eval()
    answer = predictor.begin(request, predictor.encode(request.clip), record=True)
    while not answer.done:
        predictor.step([answer])
    prediction = predictor.prediction(request, answer)
    assert answer.routed is not None
    ids = torch.tensor([*answer.prompt_ids, *answer.tokens[:-1]])  # the last token is never read
    masks = list(torch.cat([routed.mask for routed in answer.routed], 1))
    fallbacks = list(torch.cat([routed.fallback for routed in answer.routed], 1))
    types = model.token_types(ids[None])[0]
    frames = _frames(prediction, types, torch.stack(masks, 1))
    written = words(predictor.answering.codec, answer.tokens[:-1])
    tokens = [
        TokenTrace(
            text,
            TokenType(int(types[place])).name.lower(),
            word,
            tuple(tuple(mask[place].nonzero()[:, 0].tolist()) for mask in masks),
            tuple(bool(fallback[place]) for fallback in fallbacks),
        )
        for place, (text, word) in enumerate(written, prediction.prompt_tokens)
    ]
    return ExpertTrace(request, prediction, model.config.moe_config.router, active, frames, tokens)


def _frames(prediction: Prediction, types: Tensor, mask_SLE: Tensor) -> list[FrameTrace]:
    """Shares by frame: visual and frame-time tokens come in the frames' order, equally many of each."""
    times_s = prediction.frame_times_s
    mask_SLE = mask_SLE[: prediction.prompt_tokens].double()
    kinds = types[: prediction.prompt_tokens]
    vision, frame_time = (
        mask_SLE[kinds == kind].unflatten(0, (len(times_s), -1)).mean(1).numpy()
        for kind in (TokenType.VISION, TokenType.FRAME_TIME)
    )
    return [FrameTrace(*row) for row in zip(times_s, vision, frame_time, strict=True)]


def words(codec: EventCodec, token_ids: Sequence[int]) -> list[tuple[str, int]]:
    """How each token of an answer is written, and the number of its word.

    A word is a run of text pieces up to the next blank, an event's <sync>, or a number with the <sep> or <sync> behind
    it; a list without numbers is its <sync> alone.
    """
    ids = codec.ids
    out: list[tuple[str, int]] = []
    word, run = -1, list[int]()
    open_kind: TokenType | None = None  # of the word that the next token may belong to
    for token in token_ids:
        kind = ids.type_of(token)
        if kind == TokenType.TEXT:
            piece = _piece(codec, run, token)
            run.append(token)
            fresh = open_kind != kind or piece.startswith(" ")
            text, open_kind = piece.strip(), kind
        else:
            run = []
            symbol = token - ids.starts[kind]
            closes = kind != TokenType.SYNC and symbol in (codec.times.sync, codec.times.sep)
            text = EVENT if kind == TokenType.SYNC else codec.times.symbols[symbol]
            if closes:
                text = SEP if symbol == codec.times.sep else END
            fresh = open_kind != kind
            open_kind = None if closes or kind == TokenType.SYNC else kind
        word += fresh
        out.append((text, word))
    return out


def _piece(codec: EventCodec, before: list[int], token: int) -> str:
    """What a token adds to the text before it. Bytes of a character add nothing until the last one completes it."""
    text, longer = (codec.text.decode(ids).rstrip("\ufffd") for ids in (before, [*before, token]))
    return longer[len(text) :]


def shares(share_E: NDArray[np.float64]) -> dict[int, float]:
    """``{expert: share}`` of those above 0, most used first."""
    found = np.flatnonzero(share_E)
    return {int(e): round(float(share_E[e]), 4) for e in sorted(found, key=lambda e: (-share_E[e], e))}


def choose_layers(count: int, asked: Sequence[int]) -> list[int]:
    """The layers to show: those asked for, else all, at most DRAWN_LAYERS evenly chosen. Raises
    :class:`ReportError` for a layer that the model does not have."""
    for layer in asked:
        if not 0 <= layer < count:
            raise ReportError(f"--layer {layer}: the model has {count} layers, 0 to {count - 1}.")
    if asked:
        return sorted(set(asked))
    shown = min(count, DRAWN_LAYERS)
    return sorted({i * (count - 1) // max(1, shown - 1) for i in range(shown)})
