"""The attention of steps for transformers' decoders: each row's new token sees its own row (:mod:`.row_cache`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import AttentionInterface

ROWS = "timeexpert_rows"  # the name that transformers looks it up with


def _attend_in_rows(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """One new token of each row, which sees its own row alone: (R, H, 1, C) -> (R, 1, H, C)."""
    out = kwargs["rows"].attend(module.layer_idx, query, key, value, kwargs["scaling"])
    return out.transpose(1, 2), None


AttentionInterface.register(ROWS, _attend_in_rows)


@contextmanager
def rows_attention(text_config: Any) -> Iterator[None]:
    """Within, the decoder of ``text_config`` is given ``rows=`` a :class:`.row_cache.StepCache` and attends in it."""
    usual, text_config._attn_implementation = text_config._attn_implementation, ROWS
    try:
        yield
    finally:
        text_config._attn_implementation = usual
