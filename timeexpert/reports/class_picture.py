"""One action segmentation as a picture: frames above the true and the predicted steps, one colour per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from timeexpert.evaluation.class_names import UNMATCHED
from timeexpert.tokenization import EventSequence

from .class_bars import ClassBar, bars_of_events
from .drawing import INK, MUTED, fit, font, one_line, png_of, text_width
from .picture_frames import LEFT, PLOT, WIDTH, open_picture

# All lengths below are inches unless a name says otherwise.
BAR, LANE, LINE, KEY = 0.34, 0.46, 0.24, 0.3
GROUND = "#eef1f4"


def draw_steps(
    frames: NDArray[np.uint8],
    frame_times_s: Sequence[float],
    truth: EventSequence | None,
    prediction: EventSequence | None,
    duration_s: float,
    prompt: str,
    classes: Sequence[str],
    path: Path | None = None,
) -> bytes:
    """Draw one action segmentation and return the PNG; also write it to ``path`` if given.

    As :func:`~timeexpert.reports.timeline.draw_timeline`; ``classes`` is the label set, to which the texts of events
    are mapped as scoring does. Words that are no class are grey with a question mark. Raises :class:`ReportError`.
    """
    lanes = [] if truth is None else [("truth", bars_of_events(truth, classes, duration_s), "no steps")]
    note = "the answer did not parse" if prediction is None else "no steps"
    lanes.append(("predicted", bars_of_events(prediction, classes, duration_s), note))
    legend = _legend([bar for _, bars, _ in lanes for bar in bars])
    legend_height = LINE * len(legend) + (0.12 if legend else 0.0)
    figure, axes = open_picture(prompt, frames, frame_times_s, duration_s, LANE * len(lanes), legend_height)
    for i, (name, bars, note) in enumerate(lanes):
        _draw_lane(axes, name, bars, note, 0.06 + i * LANE, duration_s)
    _draw_legend(figure, legend, legend_height)
    png = png_of(figure)
    if path is not None:
        Path(path).write_bytes(png)
    return png


def _draw_lane(axes: Axes, name: str, bars: Sequence[ClassBar], note: str, top: float, duration_s: float) -> None:
    seconds = duration_s / PLOT  # seconds per inch
    axes.text(
        -0.2 * seconds, top + BAR / 2, name, ha="right", va="center", color=INK, fontproperties=font(10, bold=True)
    )
    axes.add_patch(Rectangle((0, top), duration_s, BAR, fc=GROUND, ec="none", zorder=1))
    if not bars:
        axes.text(0.08 * seconds, top + BAR / 2, note, va="center", color=MUTED, style="italic", fontsize=9.5)
    for bar in bars:
        width = max(bar.end_s - bar.start_s - 0.01 * seconds, 0.01 * seconds)
        axes.add_patch(Rectangle((bar.start_s, top), width, BAR, fc=bar.colour, ec="none", zorder=3))
        if text_width(bar.mark, 9, bold=True) < width / seconds:
            where = (bar.start_s + width / 2, top + BAR / 2)
            axes.text(*where, bar.mark, ha="center", va="center", color="white", fontproperties=font(9, True), zorder=4)


def _legend(bars: Sequence[ClassBar]) -> list[list[tuple[ClassBar, str, float]]]:
    """Rows of (a bar of the class, its name cut to fit, where it starts), in the order of the label set."""
    found = {bar.number: bar for bar in sorted(bars, key=lambda bar: (bar.number is None, bar.number or 0))}
    rows: list[list[tuple[ClassBar, str, float]]] = []
    at = PLOT
    for bar in found.values():
        name = fit("no class" if bar.name == UNMATCHED else one_line(bar.name), 9, PLOT - KEY)
        needed = KEY + 0.08 + text_width(name, 9) + 0.25
        if not rows or at + needed > PLOT:
            rows.append([])
            at = 0.0
        rows[-1].append((bar, name, at))
        at += needed
    return rows


def _draw_legend(figure: Figure, rows: Sequence[Sequence[tuple[ClassBar, str, float]]], height: float) -> None:
    if not rows:
        return
    total = figure.get_figheight()
    axes = figure.add_axes((LEFT / WIDTH, 0.04 / total, PLOT / WIDTH, height / total))
    axes.set_xlim(0, PLOT)
    axes.set_ylim(height, 0)
    axes.axis("off")
    for i, row in enumerate(rows):
        y = 0.08 + i * LINE
        for bar, name, x in row:
            axes.add_patch(Rectangle((x, y), KEY, 0.18, fc=bar.colour, ec="none"))
            mark: dict[str, Any] = {"ha": "center", "va": "center", "color": "white", "fontproperties": font(8, True)}
            axes.text(x + KEY / 2, y + 0.09, bar.mark, **mark)
            text: dict[str, Any] = {"va": "center", "color": INK, "fontproperties": font(9), "parse_math": False}
            axes.text(x + KEY + 0.08, y + 0.09, name, **text)
