"""Line charts and heat maps as inline SVG. Colours are CSS variables of :mod:`style`, so they follow dark mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, log10

MAX_POINTS = 300
SERIES_COLOURS = 8

Points = Sequence[tuple[float, float | None]]  # (x, y); None (absent or NaN) leaves a gap


def line_chart(title: str, series: Mapping[str, Points], *, x_label: str = "step", from_zero: bool = False) -> str:
    """One chart with a line per series and a legend. More than 300 points are averaged in equal groups."""
    lines = {name: _thin(points) for name, points in series.items()}
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points if y is not None]
    if not ys:
        return (
            f'<figure class="chart"><figcaption>{escape(title)}</figcaption><p class="muted">no values yet</p></figure>'
        )
    width, height, left, right, top, bottom = 520, 240, 52, 12, 10, 34
    x0, x1 = min(xs), max(xs)
    y0, y1 = (min(0.0, *ys) if from_zero else min(ys)), max(ys)
    if x0 == x1:
        x0, x1 = x0 - 0.5, x1 + 0.5
    pad = (y1 - y0) * 0.06 or abs(y1) * 0.1 or 1.0
    y0, y1 = (y0 if from_zero else y0 - pad), y1 + pad

    def px(x: float) -> float:
        return left + (x - x0) / (x1 - x0) * (width - left - right)

    def py(y: float) -> float:
        return top + (y1 - y) / (y1 - y0) * (height - top - bottom)

    ends = [
        f"{name} {seen[-1]:.4g}" for name, points in lines.items() if (seen := [y for _, y in points if y is not None])
    ]
    words = f"{title}. Last values: {', '.join(ends)}."
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(words)}">']
    for y in _ticks(y0, y1, 5):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{py(y) + 3.5:.1f}" text-anchor="end">{y:.4g}</text>')
    for x in _ticks(x0, x1, 6, whole=True):
        parts.append(f'<text class="tick" x="{px(x):.1f}" y="{height - 18}" text-anchor="middle">{x:.6g}</text>')
    parts.append(f'<text class="tick" x="{width - right}" y="{height - 4}" text-anchor="end">{escape(x_label)}</text>')
    for i, points in enumerate(lines.values()):
        for run in _runs(points):
            path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in run)
            if len(run) == 1:
                cx, cy = path.split(",")
                parts.append(f'<circle class="dot c{i % SERIES_COLOURS}" cx="{cx}" cy="{cy}" r="2.5"/>')
            else:
                parts.append(f'<polyline class="line c{i % SERIES_COLOURS}" points="{path}"/>')
    legend = "".join(
        f'<span><i class="key c{i % SERIES_COLOURS}"></i>{escape(name)}</span>' for i, name in enumerate(lines)
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{"".join(parts)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def heat_map(
    title: str,
    rows: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    full: float,
    alt: str,
    mark_below: float = 0.0,
    column: str = "expert",
) -> str:
    """A grid of cells, strongest at ``full`` and above; ``None`` is drawn as an empty slot and values under
    ``mark_below`` are outlined. Each cell says its value; ``alt`` says in words what is to be seen."""
    columns = max((len(row) for row in values), default=0)
    if not columns:
        return (
            f'<figure class="heat"><figcaption>{escape(title)}</figcaption><p class="muted">no values yet</p></figure>'
        )
    cell = max(8, min(26, 760 // columns))
    left = 8 + 7 * max(len(row) for row in rows)
    width, height = left + columns * cell + 4, len(rows) * cell + 20
    parts = [
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        f'aria-label="{escape(title)}. {escape(alt)}">'
    ]
    for r, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = r * cell
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{y + cell / 2 + 4:g}" text-anchor="end">{escape(name)}</text>'
        )
        for c, value in enumerate(row):
            x = left + c * cell
            box = f'x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}"'
            if value is None:
                parts.append(
                    f'<rect class="empty" {box}><title>{escape(name)}, {column} {c}: not active</title></rect>'
                )
                continue
            shade = max(0.0, min(1.0, value / full)) if full > 0 else 0.0
            label = f"{escape(name)}, {column} {c}: {value:.3g}"
            if value < mark_below:
                parts.append(f'<rect class="dead" x="{x + 1}" y="{y + 1}" width="{cell - 3}" height="{cell - 3}"/>')
            parts.append(
                f'<rect class="cell" {box} fill-opacity="{0.06 + 0.94 * shade:.2f}"><title>{label}</title></rect>'
            )
    every = max(1, -(-22 // cell))
    for c in range(0, columns, every):
        middle = left + c * cell + cell / 2
        parts.append(f'<text class="tick" x="{middle:g}" y="{height - 6}" text-anchor="middle">{c}</text>')
    return f'<figure class="heat"><figcaption>{escape(title)}</figcaption>{"".join(parts)}</svg></figure>'


def _thin(points: Points) -> list[tuple[float, float | None]]:
    size = -(-len(points) // MAX_POINTS)
    if size <= 1:
        return list(points)
    out: list[tuple[float, float | None]] = []
    for i in range(0, len(points), size):
        group = points[i : i + size]
        ys = [y for _, y in group if y is not None]
        out.append((group[0][0], sum(ys) / len(ys) if len(ys) == len(group) else None))
    return out


def _runs(points: Points) -> list[list[tuple[float, float]]]:
    """Unbroken stretches: a gap stays a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def _ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Round numbers between ``low`` and ``high``; ``whole`` ones for steps."""
    rough = (high - low) / count
    magnitude = 10.0 ** floor(log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    first = -floor(-low / step)
    return [i * step for i in range(first, first + 2 * count + 2) if low <= i * step <= high]
