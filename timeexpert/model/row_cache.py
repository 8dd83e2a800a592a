"""Keys and values of answers that are written side by side, each in memory of its own.

Every row attends to its own tokens alone, without padding, so that its numbers do not depend on the other rows.
N tokens of one step, S tokens of one row so far, L layers, H heads, C head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class RowCache:
    """The keys and values (L, 1, H, S, C) of one row, in room for ``room`` tokens."""

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        layers, *shape = keys.shape
        self.length = shape[2]
        shape[2] = max(room, self.length)
        self.kept = keys.new_empty(2 * layers, *shape)  # the values behind the keys: one view serves both
        self.keys, self.values = self.kept.chunk(2)
        self.keys[:, :, :, : self.length] = keys
        self.values[:, :, :, : self.length] = values


class StepCache:
    """The rows of one step and how many tokens each of them reads, in order; slots behind them attend to nothing."""

    def __init__(self, rows: Sequence[RowCache], counts: Sequence[int]) -> None:
        self.rows, self.counts = rows, list(counts)
        self._layers, self.device = len(rows[0].keys), rows[0].keys.device
        # views of all layers at once: taken in each layer, they would be a third of the operations of a step
        self._new = [row.kept.narrow(3, row.length, n).unbind() for row, n in zip(rows, counts, strict=True)]
        self._seen = [row.kept.narrow(3, 0, row.length + n).unbind() for row, n in zip(rows, counts, strict=True)]
        self._masks = [_causal(row, n) for row, n in zip(rows, counts, strict=True)]

    @property
    def positions(self) -> list[int]:
        """Of each token in its row."""
        return [row.length + i for row, count in zip(self.rows, self.counts, strict=True) for i in range(count)]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query (N, H, 1, C), key and value (N, H or fewer, 1, C): what each token reads, (N, H, 1, C).

        The new keys and values are kept; :meth:`advance` makes them part of the rows once all layers have theirs.
        """
        grouped = key.shape[1] != query.shape[1]
        counts = [*self.counts, len(query) - sum(self.counts)]
        # (N, H, 1, C) -> (1, H, N, C), as the rows keep them
        *queries, empty = query.transpose(0, 2).split(counts, 2)
        keys, values = key.transpose(0, 2).split(counts, 2), value.transpose(0, 2).split(counts, 2)
        out = []
        for i, (new, seen) in enumerate(zip(self._new, self._seen, strict=True)):
            new[layer].copy_(keys[i])
            new[self._layers + layer].copy_(values[i])
            past = seen[layer], seen[self._layers + layer]
            out.append(
                F.scaled_dot_product_attention(
                    queries[i], *past, attn_mask=self._masks[i], scale=scale, enable_gqa=grouped
                )
            )
        return torch.cat([*out, torch.zeros_like(empty)], 2).transpose(0, 2)

    def advance(self) -> None:
        """The rows have read their tokens."""
        for row, count in zip(self.rows, self.counts, strict=True):
            row.length += count


def _causal(row: RowCache, count: int) -> Tensor | None:
    """(count, S): what keeps each of a row's next tokens from those behind it; one token has none behind it."""
    if count == 1:
        return None
    return row.kept.new_full((count, row.length + count), float("-inf")).triu(row.length + 1)
