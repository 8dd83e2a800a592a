"""Named readings of a metric. ``strict`` is the default; the others repeat what a published script computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from timeexpert.errors import did_you_mean

from .errors import EvaluationError

Switches = TypeVar("Switches")


def chosen(conventions: Mapping[str, Switches], name: str, family: str) -> Switches:
    """The switches of convention ``name``. Raises :class:`EvaluationError` naming the known ones."""
    if name not in conventions:
        hint = did_you_mean(name, conventions)
        raise EvaluationError(f"{family} knows no convention {name!r}. Choose one of {', '.join(conventions)}.{hint}")
    return conventions[name]


def policies(switches: Any) -> dict[str, Any]:
    """The switches of a convention as a JSON-able dict."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(switches).items()}


def rounded(values: NDArray[np.float64], decimals: int | None) -> NDArray[np.float64]:
    """Decimal rounding as Python prints it (``np.round`` scales first and may differ in the last digit)."""
    if decimals is None:
        return values
    flat = [round(float(v), decimals) if np.isfinite(v) else float(v) for v in np.ravel(values)]
    return np.array(flat, dtype=np.float64).reshape(np.shape(values))


def share(of: NDArray[np.float64], count: NDArray[np.float64], scale: float = 100.0) -> NDArray[np.float64]:
    """``scale * of / count``, elementwise; NaN where ``count`` is 0. The last axis of ``of`` may be longer by one."""
    of, count = np.asarray(of, dtype=np.float64), np.asarray(count, dtype=np.float64)
    if of.ndim > count.ndim:
        count = count[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count == 0, np.nan, scale * (of / count))
