"""The decoding grammar as a transformers ``LogitsProcessor``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from transformers import LogitsProcessor

from timeexpert.tokenization import EventGrammar, IdSpace
from timeexpert.tokenization.grammar import Allowed

KEPT_RULES = 64  # a mask is as long as the vocabulary


def plain_text(ids: IdSpace, special_ids: frozenset[int]) -> Tensor:
    """(output_size,) bool: the text pieces that may stand inside an event's text."""
    plain = torch.zeros(ids.output_size, dtype=torch.bool)
    plain[: ids.text_size] = True
    plain[list(special_ids)] = False
    return plain


class RefusedTokens:
    """The tokens that rules refuse, as masks; ``plain`` (V,) bool is :func:`plain_text`, on the device of the masks.

    The same rules come again with every number, so the last masks are kept.
    """

    def __init__(self, plain: Tensor) -> None:
        self.plain = plain
        self._of = lru_cache(KEPT_RULES)(self._mask)

    def __call__(self, rules: Sequence[Allowed]) -> Tensor:
        """(len(rules), V) bool."""
        return torch.stack([self._of(rule) for rule in rules])

    def _mask(self, rule: Allowed) -> Tensor:
        refused = ~self.plain if rule.text else torch.ones_like(self.plain)
        refused[list(rule.ids)] = False
        return refused


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
        self.refused = RefusedTokens(plain_text(self.grammars[0].codec.ids, special_ids))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids (B, S), scores (B, output_size) -> scores with -inf where a token may not come."""
        beams = len(input_ids) // len(self.grammars)
        answers = enumerate(input_ids[:, self.prompt_length :].tolist())
        rules = [self.grammars[row // beams].allowed(tokens) for row, tokens in answers]
        return scores.masked_fill(self.refused(rules).to(scores.device), float("-inf"))
