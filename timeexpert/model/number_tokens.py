"""Embeddings and heads of the number tokens: one table and one head each for time and score, and ``<sync>``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from timeexpert.tokenization import IdSpace, NumericVocab


class TokenEmbedding(nn.Module):
    """Embeds every id of the id space except the vision placeholders (which frames overwrite).

    Text, ``<sync>``, time and score each have their own table; a frame's own timestamp uses the time table.
    """

    def __init__(self, ids: IdSpace, model_dim: int, pad_id: int | None) -> None:
        super().__init__()
        self.ids = ids
        self.text = nn.Embedding(ids.text_size, model_dim, padding_idx=pad_id)
        self.sync = nn.Embedding(1, model_dim)
        self.time_encoder = nn.Embedding(NumericVocab.size, model_dim)
        self.score_encoder = nn.Embedding(NumericVocab.size, model_dim)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, S) int64 -> (B, S, D); vision placeholders give zeros."""
        ids = self.ids
        numbers = torch.cat(
            [
                self.sync.weight,
                self.time_encoder.weight,
                self.score_encoder.weight,
                torch.zeros_like(self.sync.weight),
                self.time_encoder.weight,
            ]
        )
        is_text = input_ids < ids.text_size
        text = self.text(input_ids.where(is_text, 0))
        number = nn.functional.embedding((input_ids - ids.sync).clamp(min=0), numbers)
        return torch.where(is_text[..., None], text, number.to(text.dtype))

    @torch.no_grad()
    def initialise_numbers(self, digit_ids: Sequence[int], point_id: int | None) -> None:
        """Start the time and score tables from the text embeddings of the digits and the point.

        ``<sync>`` and ``<sep>`` start from the mean of the digits (TRACE's code has this initialisation
        commented out; the paper describes it).
        """
        digits = self.text.weight[list(digit_ids)]
        mean = digits.mean(0)
        point = mean if point_id is None else self.text.weight[point_id]
        table = torch.stack([mean, mean, *digits, point])
        self.time_encoder.weight.copy_(table)
        self.score_encoder.weight.copy_(table)
        self.sync.weight.copy_(mean[None])


class TokenHeads(nn.Module):
    """Three heads, text (with a column for ``<sync>``), time and score; logits in the id space's order."""

    def __init__(self, ids: IdSpace, model_dim: int) -> None:
        super().__init__()
        self.text = nn.Linear(model_dim, ids.text_size, bias=False)
        self.sync = nn.Linear(model_dim, 1, bias=False)
        self.time = nn.Linear(model_dim, NumericVocab.size, bias=False)
        self.score = nn.Linear(model_dim, NumericVocab.size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., output_size)."""
        return torch.cat([self.text(hidden), self.sync(hidden), self.time(hidden), self.score(hidden)], dim=-1)
