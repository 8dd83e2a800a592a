"""Text from files and models on a terminal."""

from __future__ import annotations

from rich.text import Text


def plain(text: str, style: str = "") -> Text:
    """Text as it stands: no markup, no control characters for the terminal to obey."""
    return Text("".join(c if c.isprintable() else "\ufffd" for c in text), style=style)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as ``12.3 %``, a dash for ``None``."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def figure(value: float | None, digits: int = 2) -> str:
    """A number, a dash for ``None``."""
    return "-" if value is None else f"{value:.{digits}f}"
