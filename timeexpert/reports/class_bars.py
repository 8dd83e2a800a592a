"""Labelled steps of a video as bars, one colour and one number per class: what is true above what was told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from timeexpert.evaluation.class_names import UNMATCHED, ClassNames
from timeexpert.evaluation.frame_labels import BACKGROUND, FrameLabels
from timeexpert.evaluation.segmentation_answers import FRAMES_PER_S, labels_of_steps
from timeexpert.tokenization import EventSequence

from .palette import expert_colour

NO_CLASS = "#8a929c"  # words that are no class
WIDTH, LEFT, BAR, GAP = 1000, 70, 20, 4
CSS = (
    ".steps text { font-size: 10.5px; fill: var(--muted); } .steps .number { fill: #fff; font-weight: 650; } "
    ".steps .ground { fill: rgb(128 128 128 / 16%); } .steps .axis { stroke: var(--rule); } "
    ".classes { display: flex; flex-wrap: wrap; gap: .25rem 1rem; font-size: .85rem; margin: .5rem 0 1rem; } "
    ".classes b { display: inline-block; min-width: 1.5em; padding: 0 .3em; border-radius: 3px; color: #fff; "
    "text-align: center; margin-right: .35rem; font-size: .8rem; }"
)


@dataclass(frozen=True)
class ClassBar:
    """Frames of one class: ``number`` is its place in the label set, from 0; ``None`` where the words are no class."""

    start_s: float
    end_s: float
    name: str
    number: int | None

    @property
    def colour(self) -> str:
        return NO_CLASS if self.number is None else expert_colour(self.number)

    @property
    def mark(self) -> str:
        """What stands inside the bar and in the legend."""
        return "?" if self.number is None else str(self.number + 1)


def class_bars(labels: FrameLabels | None, names: Sequence[str]) -> list[ClassBar]:
    """The runs of ``labels`` but for the background, in seconds; none where there are no labels."""
    if labels is None:
        return []
    places = {name: i for i, name in enumerate(names)}
    starts = (0, *labels.ends[:-1])
    return [
        ClassBar(start / FRAMES_PER_S, end / FRAMES_PER_S, name, places.get(name))
        for name, start, end in zip(labels.names, starts, labels.ends, strict=True)
        if name != BACKGROUND
    ]


def bars_of_events(events: EventSequence | None, names: Sequence[str], duration_s: float) -> list[ClassBar]:
    """:func:`class_bars` of events, whose texts are looked up in the label set ``names``."""
    if events is None or not names:
        return []
    classes = ClassNames(names)
    timed = [(e.start_s, e.end_s, classes.match(e.text)) for e in events if e.start_s is not None]
    return class_bars(labels_of_steps(timed, duration_s)[0], names)  # type: ignore[arg-type]


def class_lines(duration_s: float, truth: Sequence[ClassBar], told: Sequence[ClassBar] | None) -> str:
    """Both as inline SVG on one line of time; ``told`` is ``None`` where there is no answer that could be read."""
    parts, top = [], 2
    for title, bars in (("truth", truth), ("answer", told)):
        parts.append(f'<text x="0" y="{top + 14}">{title}</text>')
        parts.append(f'<rect class="ground" x="{LEFT}" y="{top}" width="{WIDTH - LEFT - 2}" height="{BAR}"/>')
        if bars is None:
            parts.append(f'<text x="{LEFT + 6}" y="{top + 14}">no answer that could be read</text>')
        parts += [_bar(bar, duration_s, top) for bar in bars or ()]
        top += BAR + GAP
    for i in range(6):
        x = _x(duration_s * i / 5, duration_s)
        anchor = "start" if i == 0 else "end" if i == 5 else "middle"
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + 14}" text-anchor="{anchor}">{duration_s * i / 5:.4g} s</text>')
    return f'<svg class="steps" viewBox="0 0 {WIDTH} {top + 18}" role="img">{"".join(parts)}</svg>'


def class_legend(bars: Sequence[ClassBar]) -> str:
    """The classes of ``bars`` with their colours, in the order of the label set; words that are no class as one."""
    found = {bar.number: bar for bar in sorted(bars, key=lambda bar: (bar.number is None, bar.number or 0))}
    items = [
        f'<span><b style="background:{bar.colour}">{bar.mark}</b>'
        f"{escape('no class' if bar.name == UNMATCHED else bar.name)}</span>"
        for bar in found.values()
    ]
    return f'<div class="classes">{"".join(items)}</div>'


def _x(time_s: float, duration_s: float) -> float:
    return LEFT + (WIDTH - LEFT - 2) * min(max(time_s, 0.0), duration_s) / duration_s


def _bar(bar: ClassBar, duration_s: float, top: int) -> str:
    x0, x1 = _x(bar.start_s, duration_s), _x(bar.end_s, duration_s)
    title = f"<title>{bar.start_s:.1f} - {bar.end_s:.1f} s {escape(bar.name)}</title>"
    width = max(x1 - x0 - 1, 0.8)  # a hair of ground between neighbours
    rect = f'<rect x="{x0:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{bar.colour}">{title}</rect>'
    if x1 - x0 < 7 * len(bar.mark) + 4:
        return rect
    at = (x0 + x1) / 2
    return rect + f'<text class="number" x="{at:.1f}" y="{top + 14}" text-anchor="middle">{bar.mark}</text>'
