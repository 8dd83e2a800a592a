"""Which experts computed an answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from timeexpert.model.decoding import Writing
from timeexpert.tokenization import EventGrammar, TokenType

# <sync> opens an event and belongs to the text stream
STREAMS = {"text": (TokenType.TEXT, TokenType.SYNC), "time": (TokenType.TIME,), "score": (TokenType.SCORE,)}


def expert_use(answer: Writing) -> dict[str, Any]:
    """Shares from 0 to 1 of a recorded answer's tokens that were read back; a token may have several experts or none.

    ``layers``: per layer, the share of the tokens that each expert slot computed. ``tokens``: per stream, the same
    share among the stream's tokens, as a mean over the layers; empty where the answer has no such token.
    """
    assert answer.routed is not None and isinstance(answer.grammar, EventGrammar)
    ids = answer.grammar.codec.ids
    mask_LSE = torch.cat([routed.mask for routed in answer.routed], 1)[:, len(answer.prompt_ids) :].float()
    kinds = [ids.type_of(token) for token in answer.tokens[: mask_LSE.shape[1]]]
    streams: dict[str, list[float]] = {}
    for name, members in STREAMS.items():
        own = torch.tensor([kind in members for kind in kinds], dtype=torch.bool)
        streams[name] = _rounded(mask_LSE[:, own].mean((0, 1))) if bool(own.any()) else []
    layers = [_rounded(layer) for layer in mask_LSE.mean(1)] if kinds else []
    return {"layers": layers, "tokens": streams}


def _rounded(shares: Tensor) -> list[float]:
    return [round(float(share), 4) for share in shares]
