"""Heat maps with many cells, as inline SVG around a small PNG: one cell is one pixel, so a page of 28 layers, 64
experts and 120 steps stays a few megabytes. The colours read on light and on dark ground; 0 lets the ground through
and grey means that there is no value."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MORE, LESS, ABSENT = (0x2F, 0x86, 0xD6), (0xD9, 0x6B, 0x1F), (0x80, 0x80, 0x80)  # 3:1 or more on both cards
ABSENT_OPACITY = 90
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 520, 34, 6, 16, 32
MAX_COLUMNS = 120


@dataclass(frozen=True)
class Mark:
    """Something that happened to the expert of a row at a global step: a triangle, up for added, down for removed."""

    row: int
    global_step: int
    added: bool
    text: str


def history_map(
    title: str,
    values: Sequence[Sequence[float | None]],
    columns: Sequence[tuple[str, int]],
    *,
    full: float,
    alt: str,
    row_name: str = "expert",
    row_labels: Sequence[int] | None = None,
    marks: Sequence[Mark] = (),
    css: str = "",
) -> str:
    """Rows (experts) against time. ``values[row][column]``: strongest at ``full``; ``None`` is grey.

    ``columns``: stage and global step of each record; stages are divided by lines. ``alt`` says in words what is to
    be seen. ``css``: classes of the figure.
    """
    grid = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)
    rows, count = grid.shape
    cell = max(5.0, min(20.0, 260 / rows))
    height = TOP + rows * cell + BOTTOM
    plot = WIDTH - LEFT - RIGHT
    step = plot / count
    parts = [
        _open(title, alt, WIDTH, height, css),
        _image(_shades(grid / full, MORE), LEFT, TOP, plot, rows * cell),
    ]
    parts += _row_ticks(range(rows) if row_labels is None else row_labels, cell)
    parts += _stage_lines(columns, step, rows * cell)
    parts += _column_ticks(columns, step, height)
    parts.append(f'<text class="tick" x="4" y="{TOP - 6}">{escape(row_name)}</text>')
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{height - 3:g}" text-anchor="end">global step</text>')
    for mark in (m for m in marks if m.row < rows):
        at = next((c for c, (_, s) in enumerate(columns) if s >= mark.global_step), count - 1)
        x, y = LEFT + (at + 0.5) * step, TOP + (mark.row + 0.5) * cell
        parts.append(triangle(x, y, min(5.0, cell / 2), mark.added, mark.text))
    return "".join(parts) + "</svg></figure>"


def similarity_map(title: str, cosines: NDArray[np.float32], active: Sequence[bool], *, alt: str, css: str = "") -> str:
    """Experts against experts: blue for alike (1), orange for opposite (-1), none for 0, grey for empty slots."""
    count = len(active)
    cell = max(4.0, min(26.0, 236 / count))
    size = count * cell
    width, height = LEFT + size + RIGHT, TOP + size + 4
    on = np.asarray(active)
    pairs = on[:, None] & on[None, :]
    shades = _shades(np.where(pairs, np.maximum(cosines, 0), np.nan), MORE)
    against = _shades(np.where(pairs, np.maximum(-cosines, 0), np.nan), LESS)
    shades = np.where((cosines < 0)[..., None], against, shades)
    parts = [
        _open(title, alt, width, height, css, zoom=1.1),
        _image(shades, LEFT, TOP, size, size),
    ]
    parts += _row_ticks(range(count), cell)
    every = _every(cell)
    for c in range(0, count, every):
        parts.append(
            f'<text class="tick" x="{LEFT + (c + 0.5) * cell:g}" y="{TOP - 5}" text-anchor="middle">{c}</text>'
        )
    return "".join(parts) + "</svg></figure>"


def scale(text: str, *, signed: bool = False) -> str:
    """A legend: what no colour and full colour mean. ``text`` is like ``0|3 times a fair share, or more``."""
    low, high = text.split("|")
    more, less = ("rgb({},{},{})".format(*rgb) for rgb in (MORE, LESS))
    ramp = (
        f"linear-gradient(90deg,{less},transparent,{more})" if signed else f"linear-gradient(90deg,transparent,{more})"
    )
    return (
        f'<p class="scale">{escape(low)} <i style="background:{ramp}"></i> {escape(high)}'
        '<i class="none"></i> no active expert, or no such token</p>'
    )


def _open(title: str, alt: str, width: float, height: float, css: str, zoom: float = 1.4) -> str:
    return (
        f'<figure class="heat {css}"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width:{zoom * width:g}px" role="img" '
        f'aria-label="{escape(title)}. {escape(alt)}">'
    )


def _shades(strength: NDArray[np.float64], rgb: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Pixels [rows, columns, 4]: opacity is strength from 0 to 1, NaN is grey."""
    out = np.zeros((*strength.shape, 4), dtype=np.uint8)
    out[..., :3] = rgb
    out[..., 3] = np.nan_to_num(np.clip(strength, 0.0, 1.0) * 255).round()
    out[np.isnan(strength)] = (*ABSENT, ABSENT_OPACITY)
    return out


def _image(pixels: NDArray[np.uint8], x: float, y: float, width: float, height: float) -> str:
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    data = base64.b64encode(out.getvalue()).decode("ascii")
    return (
        f'<image x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{data}"/>'
    )


def _every(cell: float) -> int:
    """Label every n-th row so that labels of 11 units do not touch."""
    return max(1, int(-(-12 // cell)))


def _row_ticks(labels: Sequence[int], cell: float) -> list[str]:
    every = _every(cell)
    return [
        f'<text class="tick" x="{LEFT - 5}" y="{TOP + (r + 0.5) * cell + 3.5:g}" text-anchor="end">{label}</text>'
        for r, label in enumerate(labels)
        if r % every == 0
    ]


def _stage_lines(columns: Sequence[tuple[str, int]], step: float, height: float) -> list[str]:
    """A line where a stage begins, and its name if there is room for it."""
    starts = [c for c, (stage, _) in enumerate(columns) if c == 0 or stage != columns[c - 1][0]]
    parts = []
    for start, stop in zip(starts, [*starts[1:], len(columns)], strict=True):
        x = LEFT + start * step
        if start:
            parts.append(f'<line class="stage" x1="{x:g}" x2="{x:g}" y1="{TOP - 4}" y2="{TOP + height:g}"/>')
        name = columns[start][0]
        room = (stop - start) * step - 6 - (24 if not start else 0)
        if (fits := int(room / 6)) >= 3:
            shown = name if len(name) <= fits else name[: fits - 1] + "\u2026"
            parts.append(
                f'<text class="tick" x="{x + (28 if not start else 4):g}" y="{TOP - 6}">{escape(shown)}</text>'
            )
    return parts


def _column_ticks(columns: Sequence[tuple[str, int]], step: float, height: float) -> list[str]:
    widest = 6.5 * max(len(str(s)) for _, s in columns) + 10
    every = max(1, int(-(-widest // step)))
    return [
        f'<text class="tick" x="{LEFT + (c + 0.5) * step:.1f}" y="{height - 18:g}" text-anchor="middle">'
        f"{columns[c][1]}</text>"
        for c in range(len(columns) - 1, -1, -every)
    ]


def triangle(x: float, y: float, half: float, up: bool, text: str) -> str:
    """An SVG mark at (x, y) that says ``text``: up for an expert that was added, down for one that was removed.

    Up stands a little to the right and down to the left: a slot that is freed is often filled in the same step.
    """
    x += half if up else -half
    top, bottom = (y - half, y + half) if up else (y + half, y - half)
    kind = "added" if up else "removed"
    return (
        f'<path class="mark {kind}" d="M{x:.1f} {top:.1f}L{x + half:.1f} {bottom:.1f}H{x - half:.1f}z">'
        f"<title>{escape(text)}</title></path>"
    )
