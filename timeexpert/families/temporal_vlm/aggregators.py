"""Global features over all clips: the BiLSTM (TemporalVLM 3.2, equations 5 and 6) and what it is compared with (Table
5).

B videos, N clips, L tokens of a clip, C width, S tokens behind the aggregator. Tokens that are not there are left out
of every sequence, so that recurrences begin and end at real ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from .config import TemporalVLMConfig


class Aggregator(nn.Module):
    """Tokens of clips (B, N, L, C), their mask (B, N, L) -> (B, S, ``out_width``), mask (B, S).

    ``bilstm``: one layer in each direction (which Table 5 counts as two); ``lstm1``, ``lstm2``: layers of one
    direction; ``transformer``: two layers with sinusoidal positions; ``linear``: on each token; ``average_pool``: the
    mean over the clips, so that S is L; ``local_and_pooled``: each token beside that mean, as LongVLM's local and
    global features; ``none``: the tokens themselves.
    """

    def __init__(self, config: TemporalVLMConfig) -> None:
        super().__init__()
        self.kind, width = config.aggregator, config.video_config.hidden_size
        self.out_width = 2 * width if self.kind in ("bilstm", "local_and_pooled") else width
        self.rnn = self.encoder = self.linear = None
        if self.kind in ("bilstm", "lstm1", "lstm2"):
            depth = 2 if self.kind == "lstm2" else 1
            self.rnn = nn.LSTM(width, width, depth, batch_first=True, bidirectional=self.kind == "bilstm")
        elif self.kind == "transformer":
            # built layer by layer: nn.TransformerEncoder would copy one set of initial weights
            self.encoder = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    width, config.fusion_heads, 4 * width, 0.0, batch_first=True, norm_first=True
                )
                for _ in range(2)
            )
        elif self.kind == "linear":
            self.linear = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        if self.kind in ("average_pool", "local_and_pooled"):
            share = mask[..., None] / mask.sum(1, keepdim=True).clamp(min=1)[..., None]
            pooled = (tokens * share).sum(1)  # (B, L, C)
            if self.kind == "average_pool":
                return pooled, mask.any(1)
            beside = pooled[:, None].expand_as(tokens) * mask[..., None]
            return torch.cat([tokens, beside], -1).flatten(1, 2), mask.flatten(1, 2)
        flat, there = tokens.flatten(1, 2), mask.flatten(1, 2)
        if self.kind == "none":
            return flat, there
        if self.linear is not None:
            return self.linear(flat) * there[..., None], there
        rows = [row[own] for row, own in zip(flat, there, strict=True)]
        done = self._sequences(rows)
        out = flat.new_zeros(*there.shape, self.out_width)
        return out.masked_scatter(there[..., None], torch.cat(done).to(out.dtype)), there

    def _sequences(self, rows: list[Tensor]) -> list[Tensor]:
        """Each sequence (S_i, C) -> (S_i, out_width)."""
        lengths = [len(row) for row in rows]
        x = pad_sequence(rows, batch_first=True)
        if self.rnn is not None:
            packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
            y = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]
        else:
            assert self.encoder is not None
            y = x + positions(x.shape[1], x.shape[2]).to(x)
            absent = torch.arange(x.shape[1], device=x.device) >= torch.tensor(lengths, device=x.device)[:, None]
            for layer in self.encoder:
                y = layer(y, src_key_padding_mask=absent)
        return [row[:length] for row, length in zip(y, lengths, strict=True)]


def positions(length: int, width: int) -> Tensor:
    """(length, width): sines and cosines of wavelengths from 2 pi to 20000 pi (Vaswani et al. 2017, 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    out = torch.zeros(length, width)
    out[:, 0::2], out[:, 1::2] = angles.sin(), angles.cos()[:, : width // 2]
    return out
