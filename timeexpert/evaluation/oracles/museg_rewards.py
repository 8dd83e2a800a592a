"""MUSEG's rewards of completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..oracle import NotCovered
from ..segment_rewards import CONVENTIONS, REWARDS, answer_of_text

NAMES = {"format": "format_timestamps", "format_n_timestamp": "format"}  # the others are named alike


def figures(reference: str, inputs: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """One reward per completion."""
    name = NAMES.get(reference, reference)
    if name not in REWARDS:
        raise NotCovered(f"no reward is named {reference}")
    rules = CONVENTIONS["compat"]
    items = inputs["items"]
    return [REWARDS[name](answer_of_text(i["completion"], rules), i["solution"], rules) for i in items]
