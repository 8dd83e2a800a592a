"""Keys and values of answers that are written side by side, each in memory of its own.

Every row attends to its own tokens alone, without padding, so that its numbers do not depend on the other rows.
R rows, S tokens of one row so far, H heads, C head dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class RowCache:
    """Per layer the keys and values (1, H, S, C) of one row, in room for ``room`` tokens."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], room: int) -> None:
        self.length = keys[0].shape[2]
        self.room = max(room, self.length)
        self.keys = [self._roomy(key) for key in keys]
        self.values = [self._roomy(value) for value in values]

    def _roomy(self, kept: Tensor) -> Tensor:
        out = kept.new_zeros(*kept.shape[:2], self.room, kept.shape[3])
        out[:, :, : self.length] = kept
        return out


class StepCache:
    """The rows of one step. ``rows`` may be fewer than the rows of the step: the others attend to nothing."""

    def __init__(self, rows: Sequence[RowCache]) -> None:
        self.rows = rows

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query (R, H, 1, C), key and value (R, H or fewer, 1, C): what each row's new token reads, (R, H, 1, C).

        The new keys and values are kept; :meth:`advance` makes them part of the rows once all layers have theirs.
        """
        grouped = key.shape[1] != query.shape[1]
        out = [torch.zeros_like(query[len(self.rows) :])]  # of the empty rows, which come last
        parts = zip(self.rows, query.split(1), key.split(1), value.split(1), strict=False)
        for place, (row, query_1, key_1, value_1) in enumerate(parts):
            now = row.length
            row.keys[layer].narrow(2, now, 1).copy_(key_1)
            row.values[layer].narrow(2, now, 1).copy_(value_1)
            keys, values = row.keys[layer].narrow(2, 0, now + 1), row.values[layer].narrow(2, 0, now + 1)
            attended = F.scaled_dot_product_attention(query_1, keys, values, scale=scale, enable_gqa=grouped)
            out.insert(place, attended)
        return torch.cat(out)

    def advance(self) -> None:
        """One token more in every row."""
        for row in self.rows:
            row.length += 1
