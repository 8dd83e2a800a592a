"""An ``experts`` record of metrics.jsonl as named scalars: what the report's line charts draw, for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .experts import LayerUse, mean, read_snapshot

BY_LAYER: dict[str, Callable[[LayerUse], float | None]] = {
    "mean_k": lambda use: use.mean_k,
    "fallback": lambda use: use.fallback,
    "flipped": lambda use: use.flipped,
    "entropy": lambda use: use.entropy,
    "active": lambda use: float(sum(use.active)),
    "dead": lambda use: float(len(use.dead)),
}
BY_TYPE: dict[str, Callable[[LayerUse, str], float | None]] = {
    "mean_k": LayerUse.mean_k_of,
    "fallback": lambda use, token_type: use.fallback_by_type.get(token_type),
    "entropy": LayerUse.entropy_of,
}


def expert_scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """``{tag: value}`` of one record.

    ``experts/FIGURE/LAYER`` for each layer, ``experts/FIGURE/mean`` over the layers, and
    ``experts_by_type/FIGURE/TYPE``, the mean over the layers for one token type. Figures that the record does not have,
    and types of which no token was seen, have no tag. Raises :class:`ReportError` on a record that is none.
    """
    snapshot = read_snapshot(dict(record))
    out: dict[str, float | None] = {}
    for name, value in BY_LAYER.items():
        out |= {f"experts/{name}/{use.layer}": value(use) for use in snapshot.layers}
        out[f"experts/{name}/mean"] = mean(value(use) for use in snapshot.layers)
    for name, value_of in BY_TYPE.items():
        for token_type in snapshot.seen_types:
            over_layers = mean(value_of(use, token_type) for use in snapshot.layers)
            out[f"experts_by_type/{name}/{token_type}"] = over_layers
    return {tag: value for tag, value in out.items() if value is not None}
