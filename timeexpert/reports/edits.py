"""Experts added and removed: a picture over time and a table with the reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

from . import maps, style
from .run_files import Record, number

SHOWN = 200  # rows of the table
COLUMNS = {
    "stage": "stage",
    "global_step": "step",
    "layer": "layer",
    "expert": "expert",
    "action": "action",
    "parent": "copied from",
    "rate": "rate",
    "tokens": "tokens",
    "active": "active then",
    "reason": "reason",
}


def edit_cells(edit: Record, keys: Sequence[str]) -> list[str]:
    """One edit as texts, a dash where the record does not say."""
    cells = []
    for key in keys:
        value = number(edit, key)
        if value is not None:
            cells.append(str(int(value)) if value == int(value) else f"{value:.4g}")
        else:
            cells.append("\u2013" if edit.get(key) is None else str(edit[key]))
    return cells


def edit_counts(edits: Sequence[Record]) -> dict[str, int]:
    """How often each action occurs: ``{"add": 2, "remove": 3}``."""
    return dict(sorted(Counter(str(edit.get("action", "?")) for edit in edits).items()))


def edit_marks(edits: Sequence[Record], layer: int) -> list[maps.Mark]:
    """The edits of one layer as marks for its maps; those whose expert or step cannot be read have none."""
    marks = []
    for edit in edits:
        if (place := _place(edit)) is not None and place[0] == layer:
            marks.append(maps.Mark(place[1], place[2], edit.get("action") == "add", _words(edit)))
    return marks


def edits_section(edits: Sequence[Record], layers: Sequence[int], slots: int, last_step: int) -> list[str]:
    """Heading, picture and table as HTML parts. ``slots``: expert slots of a layer."""
    head = "<h3>Experts added and removed</h3>"
    if not edits:
        return [head, '<p class="muted">None so far.</p>']
    shown = edits[-SHOWN:]
    keys = [key for key in COLUMNS if any(edit.get(key) is not None for edit in edits)]
    more = [f'<p class="muted">The table holds the last {SHOWN} of {len(edits)}.</p>'] if len(edits) > SHOWN else []
    rows: list[list[Any]] = [edit_cells(edit, keys) for edit in shown]
    return [
        head,
        '<p class="muted">A triangle up is an expert added, a triangle down one removed; higher in a layer\u2019s row '
        "is a lower slot. The same marks stand in the maps of each expert\u2019s use.</p>",
        _timeline(edits, layers, slots, last_step),
        *more,
        style.table([COLUMNS[key] for key in keys], rows, left=True),
    ]


def _timeline(edits: Sequence[Record], layers: Sequence[int], slots: int, last_step: int) -> str:
    row_height = max(14, min(9 * slots, 360 // len(layers)))
    placed = [(edit, place) for edit in edits if (place := _place(edit)) is not None and place[0] in layers]
    if not placed:
        return ""
    width, left, right, top = 1000, 62, 14, 6
    end = max(1, last_step, *(place[2] for _, place in placed))
    height = top + row_height * len(layers) + 22
    counts = ", ".join(f"{n} times {action}" for action, n in edit_counts([edit for edit, _ in placed]).items())
    first, last = min(place[2] for _, place in placed), max(place[2] for _, place in placed)
    label = f"Experts added and removed by layer, steps {first} to {last}: {counts}."
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    for i, layer in enumerate(layers):
        y = top + i * row_height
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y + row_height}" y2="{y + row_height}"/>'
        )
        middle = y + row_height / 2 + 4
        parts.append(f'<text class="tick" x="{left - 10}" y="{middle:g}" text-anchor="end">layer {layer}</text>')
    for tick in range(5):
        step = end * tick // 4
        x = left + (width - left - right) * step / end
        anchor = "end" if tick == 4 else "middle"
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="{anchor}">{step}</text>')
    for edit, (layer, expert, step) in placed:
        x = left + (width - left - right) * step / end
        rows_down = layers.index(layer) + (min(expert, slots - 1) + 0.5) / slots
        parts.append(maps.triangle(x, top + rows_down * row_height, 4.5, edit.get("action") == "add", _words(edit)))
    return f'<figure class="heat"><figcaption>By layer and global step</figcaption>{"".join(parts)}</svg></figure>'


def _place(edit: Record) -> tuple[int, int, int] | None:
    """Layer, expert and global step, if the record has all three."""
    values = [number(edit, key) for key in ("layer", "expert", "global_step")]
    if any(v is None or v < 0 for v in values):
        return None
    layer, expert, step = (int(v) for v in values if v is not None)
    return layer, expert, step


def _words(edit: Record) -> str:
    layer, expert, step = _place(edit) or ("?", "?", "?")
    return f"step {step}, layer {layer}, expert {expert}: {edit.get('action')}; {edit.get('reason')}"
