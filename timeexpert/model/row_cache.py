"""Keys and values of answers that are written side by side, each in memory of its own.

Every token attends to its own row alone, up to itself and without padding, so that its numbers depend neither on the
other rows nor on which tokens of its row are read in the same step.
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
        self.positions = [row.length + i for row, count in zip(rows, counts, strict=True) for i in range(count)]
        owners = (row for row, count in zip(rows, counts, strict=True) for _ in range(count))
        # views of all layers at once: taken in each layer, they would be a third of the operations of a step
        self._seen = [
            row.kept.narrow(3, 0, place + 1).unbind() for row, place in zip(owners, self.positions, strict=True)
        ]
        self._new = [
            row.kept.narrow(3, row.length, count).unbind() for row, count in zip(rows, counts, strict=True)
        ]
        self._layers, self.device = len(rows[0].keys), rows[0].keys.device

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query (N, H, 1, C), key and value (N, H or fewer, 1, C): what each token reads, (N, H, 1, C).

        The new keys and values are kept; :meth:`advance` makes them part of the rows once all layers have theirs.
        """
        grouped, used = key.shape[1] != query.shape[1], len(self.positions)
        counts = [*self.counts, len(query) - used]
        # (N, H, 1, C) -> (1, H, N, C), as the rows keep them
        new = zip(self._new, key.transpose(0, 2).split(counts, 2), value.transpose(0, 2).split(counts, 2), strict=False)
        for places, keys, values in new:
            places[layer].copy_(keys)
            places[self._layers + layer].copy_(values)
        out = [
            F.scaled_dot_product_attention(
                query_1, seen[layer], seen[self._layers + layer], scale=scale, enable_gqa=grouped
            )
            for seen, query_1 in zip(self._seen, query.split(1), strict=False)
        ]
        return torch.cat([*out, torch.zeros_like(query[used:])])

    def advance(self) -> None:
        """The rows have read their tokens."""
        for row, count in zip(self.rows, self.counts, strict=True):
            row.length += count
