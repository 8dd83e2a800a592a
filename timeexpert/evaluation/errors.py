"""What every metric refuses."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final

from timeexpert.errors import UserError


class EvaluationError(UserError):
    """Truth and predictions that cannot be compared."""


class Missing(Enum):
    """The type of :data:`MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""Stands where a question has no answer at all; ``None`` stands for an answer that did not parse."""


def require_same_length(truth: Sequence[Any], predictions: Sequence[Any]) -> None:
    """Raise :class:`EvaluationError` unless there is one prediction (or ``None``) for each truth."""
    if len(truth) != len(predictions):
        raise EvaluationError(
            f"truth has {len(truth)} items and predictions has {len(predictions)}; they must be in the same order, "
            "one for one. Put None where an answer did not parse, MISSING where there is none: both count as a miss."
        )
