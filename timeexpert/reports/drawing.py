"""Fonts, measured text and PNG bytes for pictures drawn with matplotlib. Lengths are inches, sizes points."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO

from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

DPI = 110
MAX_TEXT = 4000  # characters measured of one prompt or caption
INK, MUTED, GRID, PAPER = "#1b1f24", "#5b6470", "#e3e7ec", "#ffffff"


@contextmanager
def _boxes_for_missing_glyphs() -> Iterator[None]:
    """Silence matplotlib's warning for characters that no installed font has."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG."""
    out = BytesIO()
    with _boxes_for_missing_glyphs():
        FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def one_line(text: str) -> str:
    """``text`` on one line, without characters that have no shape."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[:MAX_TEXT]).split())


@cache
def _families() -> tuple[str, ...]:
    """DejaVu Sans, then installed fonts that cover more scripts."""
    installed = set(font_manager.get_font_names())
    more = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Noto Sans Arabic", "Noto Sans Devanagari")
    return ("DejaVu Sans", *(name for name in more if name in installed))


@cache
def font(points: float, bold: bool = False) -> FontProperties:
    """The font of every picture."""
    return FontProperties(family=list(_families()), size=points, weight="bold" if bold else "normal")


@cache
def _measure() -> FigureCanvasAgg:
    return FigureCanvasAgg(Figure(dpi=DPI))


def text_width(text: str, points: float, bold: bool = False) -> float:
    """Width in inches."""
    with _boxes_for_missing_glyphs():
        width, _, _ = _measure().get_renderer().get_text_width_height_descent(text, font(points, bold), False)
    return float(width) / DPI


def fit(text: str, points: float, width: float, bold: bool = False) -> str:
    """``text``, cut with an ellipsis to at most ``width`` inches."""
    if text_width(text, points, bold) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle].rstrip() + "\u2026", points, bold) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "\u2026"


def wrap(text: str, points: float, width: float, *, lines: int, bold: bool = False) -> list[str]:
    """``text`` over at most ``lines`` lines; the last one is cut to fit."""
    out: list[str] = []
    words = text.split()
    while words and len(out) < lines - 1:
        count = len(words)
        while count > 1 and text_width(" ".join(words[:count]), points, bold) > width:
            count = count // 2 if count > 64 else count - 1
        out.append(fit(" ".join(words[:count]), points, width, bold))
        words = words[count:]
    return [*out, fit(" ".join(words), points, width, bold)] if words else out
