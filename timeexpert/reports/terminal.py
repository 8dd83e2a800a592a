"""Text from files and models on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text


def plain(text: str, style: str = "") -> Text:
    """Text as it stands: no markup, no control characters for the terminal to obey."""
    return Text("".join(c if c.isprintable() else "\ufffd" for c in text), style=style)


def usage_line(usage: Mapping[str, Any]) -> str:
    """What an endpoint was asked, on one line: the fields of :class:`~timeexpert.data.endpoint.Usage`."""
    cost = "" if usage["cost"] is None else f", cost {usage['cost']:.4f}"
    return (
        f"endpoint: {usage['requests']} answers, {usage['from_cache']} from the cache, {usage['failed']} failed, "
        f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens{cost}"
    )
