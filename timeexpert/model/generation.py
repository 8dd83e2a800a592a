"""The decoding grammar as a transformers ``LogitsProcessor``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from timeexpert.tokenization import EventGrammar


class EventGrammarProcessor(LogitsProcessor):
    """Masks every token that the grammar does not allow, per row; batches and beams alike.

    ``grammars``: one for all rows, or one per question (with beams, each question has equally many rows).
    ``prompt_length``: tokens of ``input_ids`` that are prompt (the same for all rows: prompts are padded on
    the left). ``special_ids``: text pieces that may not stand inside an event's text.
    """

    def __init__(
        self, grammars: EventGrammar | Sequence[EventGrammar], prompt_length: int, special_ids: frozenset[int]
    ) -> None:
        self.grammars = [grammars] if isinstance(grammars, EventGrammar) else list(grammars)
        self.prompt_length = prompt_length
        ids = self.grammars[0].codec.ids
        plain = torch.zeros(ids.output_size, dtype=torch.bool)
        plain[: ids.text_size] = True
        plain[list(special_ids)] = False
        self.plain = plain

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids (B, S), scores (B, output_size) -> scores with -inf where a token may not come."""
        allowed = torch.zeros(scores.shape, dtype=torch.bool)
        beams = len(input_ids) // len(self.grammars)
        for row, tokens in enumerate(input_ids[:, self.prompt_length :].tolist()):
            rule = self.grammars[row // beams].allowed(tokens)
            if rule.text:
                allowed[row] = self.plain
            allowed[row, list(rule.ids)] = True
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))
