"""What every metric refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timeexpert.errors import UserError


class EvaluationError(UserError):
    """Truth and predictions that cannot be compared."""


def require_same_length(truth: Sequence[Any], predictions: Sequence[Any]) -> None:
    """Raise :class:`EvaluationError` unless there is one prediction (or ``None``) for each truth."""
    if len(truth) != len(predictions):
        raise EvaluationError(
            f"truth has {len(truth)} items and predictions has {len(predictions)}; they must be in the same order, "
            "one for one. Put None where a prediction is missing: it counts as a miss."
        )
