"""Text from files and models on a terminal."""

from __future__ import annotations

from rich.text import Text


def plain(text: str, style: str = "") -> Text:
    """Text as it stands: no markup, no control characters for the terminal to obey."""
    return Text("".join(c if c.isprintable() else "\ufffd" for c in text), style=style)
