"""Events on a line of time as inline SVG: what is true above what was answered. Any times can be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite

WIDTH, LEFT, LANE, BAR, MAX_LANES, MAX_LABEL = 1000, 70, 17, 12, 8, 60
CSS = (
    ".events text { font-size: 10.5px; fill: var(--ink); } .events .name { fill: var(--muted); } "
    ".events .true { fill: var(--c3); } .events .told { fill: var(--c1); } .events .bad { fill: var(--warn); } "
    ".events .axis { stroke: var(--rule); } .events rect, .events circle { fill-opacity: .75; }"
)


@dataclass(frozen=True)
class Bar:
    """An event from ``start_s`` to ``end_s`` (a point where both are equal), with a label."""

    start_s: float
    end_s: float
    label: str = ""


def event_lines(duration_s: float, true: Sequence[Bar], told: Sequence[Bar]) -> str:
    """One picture of ``duration_s`` seconds. Reversed bars are drawn as warnings; what lies outside is cut off."""
    parts: list[str] = []
    top = 4
    for name, kind, bars in (("truth", "true", true), ("answer", "told", told)):
        drawn, lanes = _lanes(duration_s, kind, bars, top)
        hidden = len(bars) - len(drawn)
        parts.append(f'<text class="name" x="0" y="{top + 10}">{name}</text>')
        if hidden:
            parts.append(f'<text class="name" x="0" y="{top + 22}">{hidden} more</text>')
        parts += drawn
        top += max(lanes, 2 if hidden else 1) * LANE + 5
    axis: list[str] = []  # below the bars, so that it crosses no label
    for i in range(6):
        at = duration_s * i / 5
        x = _x(at, duration_s)
        axis.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{top}"/>')
        anchor = "start" if i == 0 else "end" if i == 5 else "middle"
        axis.append(f'<text class="name" x="{x:.1f}" y="{top + 11}" text-anchor="{anchor}">{at:.4g} s</text>')
    return f'<svg class="events" viewBox="0 0 {WIDTH} {top + 14}" role="img">{"".join(axis + parts)}</svg>'


def _x(time_s: float, duration_s: float) -> float:
    inside = min(max(time_s, 0.0), duration_s) if isfinite(time_s) else 0.0
    return LEFT + (WIDTH - LEFT - 2) * inside / duration_s


def _lanes(duration_s: float, kind: str, bars: Sequence[Bar], top: int) -> tuple[list[str], int]:
    ends: list[float] = []  # where each lane is free again
    drawn = []
    for bar in bars:
        reversed_ = not bar.start_s <= bar.end_s  # NaN too
        x0, x1 = sorted((_x(bar.start_s, duration_s), _x(bar.end_s, duration_s)))
        label = " ".join(bar.label.split())
        shown = label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "\u2026"
        reach = max(x1, x0 + 5.2 * len(shown)) + 4
        lane = next((i for i, end in enumerate(ends) if end <= x0), len(ends))
        if lane >= MAX_LANES:
            continue
        ends[lane : lane + 1] = [reach]
        y = top + lane * LANE
        words = f"{bar.start_s:.6g} - {bar.end_s:.6g} s {label}".strip()
        title = f"<title>{escape(words)}</title>"
        colour = "bad" if reversed_ else kind
        if x1 - x0 < 0.5:
            parts = f'<circle class="{colour}" cx="{x0:.1f}" cy="{y + BAR / 2}" r="4">{title}</circle>'
        else:
            parts = f'<rect class="{colour}" x="{x0:.1f}" y="{y}" width="{x1 - x0:.1f}" height="{BAR}">{title}</rect>'
        if shown:
            at = min(x0 + 6, WIDTH - 5.2 * len(shown))
            parts += f'<text x="{at:.1f}" y="{y + 10}">{escape(shown)}</text>'
        drawn.append(parts)
    return drawn, len(ends)
