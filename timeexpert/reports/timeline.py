"""One answer as a picture: frames with their times above bars for what is true and what was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import NDArray

from timeexpert.tokenization import Event, EventSequence

from .drawing import INK, MUTED, PAPER, fit, font, one_line, png_of, text_width
from .picture_frames import PLOT, check_frames, open_picture

# All lengths below are inches unless a name says otherwise.
LANE, BAR, POINTS_LANE, MAX_LANES = 0.46, 0.17, 0.85, 12
MAX_LABEL = 0.62 * PLOT
TRUTH, PREDICTED = "#009e73", "#0072b2"  # Okabe-Ito: told apart by colour-blind readers, light on dark


@dataclass(frozen=True)
class _Label:
    """One event of the bar lanes: its label, already cut to fit, and where label and bar reach (inches)."""

    event: Event
    text: str
    left: float
    reach: float


def draw_timeline(
    frames: NDArray[np.uint8],
    frame_times_s: Sequence[float],
    truth: EventSequence | None,
    prediction: EventSequence | None,
    duration_s: float,
    prompt: str,
    path: Path | None = None,
) -> bytes:
    """Draw one answer and return the PNG; also write it to ``path`` if given.

    ``frames`` is uint8 [n, H, W, 3] with one time per frame (n may be 0; of more than 32 frames every k-th is
    shown). ``truth`` may be ``None`` (unknown); ``prediction`` is ``None`` where the answer did not parse.
    Segments are bars on as many lanes as their labels need, scored points are stems as high as their score,
    events without a time are listed. Raises :class:`ReportError` on arrays and times that do not fit together.
    """
    check_frames(frames, frame_times_s, duration_s)
    groups = [] if truth is None else [("truth", truth, TRUTH)]
    groups.append(("predicted", prediction if prediction is not None else EventSequence(), PREDICTED))
    laid = [(name, events, colour, *_lanes(events, duration_s)) for name, events, colour in groups]
    heights = [_group_height(events, lanes) for _, events, _, lanes, _ in laid]
    bars_height = sum(heights) + 0.12 * len(heights)
    figure, axes = open_picture(prompt, frames, frame_times_s, duration_s, bars_height)
    highest = max([1e-9, *(e.scores[0] for _, events, _ in groups for e in events if _is_point_mark(e))])
    y = 0.06
    for (name, events, colour, lanes, hidden), group_height in zip(laid, heights, strict=True):
        note = "the answer did not parse" if name == "predicted" and prediction is None else "no events"
        _draw_group(axes, name, events, colour, lanes, hidden, y, group_height, duration_s, highest, note)
        y += group_height + 0.12
    png = png_of(figure)
    if path is not None:
        Path(path).write_bytes(png)
    return png


def _is_point_mark(event: Event) -> bool:
    """A highlight: a point in time with a score and nothing to read."""
    return event.start_s is not None and event.start_s == event.end_s and bool(event.scores) and not event.text.strip()


def _lanes(events: EventSequence, duration_s: float) -> tuple[list[list[_Label]], int]:
    """Lay bars and labels on lanes so that nothing overlaps, first free lane first; also how many did not fit."""
    lanes: list[list[_Label]] = []
    hidden = 0
    for event in sorted((e for e in events if not _is_point_mark(e)), key=lambda e: (e.start_s or 0.0, e.end_s or 0.0)):
        text = fit(_describe(event), 9, MAX_LABEL)
        start = min(event.start_s or 0.0, duration_s) / duration_s * PLOT
        end = min(event.end_s or 0.0, duration_s) / duration_s * PLOT
        width = text_width(text, 9)
        left = min(start, PLOT - width)
        label = _Label(event, text, left, max(end, left + width) + 0.12)
        free = next((lane for lane in lanes if lane[-1].reach <= min(left, start)), None)
        if free is not None:
            free.append(label)
        elif len(lanes) < MAX_LANES:
            lanes.append([label])
        else:
            hidden += 1
    return lanes, hidden


def _describe(event: Event) -> str:
    if event.start_s is None or event.end_s is None:
        when = "no time"
    elif event.start_s == event.end_s:
        when = f"{event.start_s:.1f} s"
    else:
        when = f"{event.start_s:.1f}\u2013{event.end_s:.1f} s"
    score = "".join(f"  score {s:g}" for s in event.scores)
    return f"{when}{score}  {one_line(event.text)}".rstrip()


def _group_height(events: EventSequence, lanes: list[list[_Label]]) -> float:
    points = POINTS_LANE if any(map(_is_point_mark, events)) else 0.0
    return max(len(lanes) * LANE + points, LANE)


def _draw_group(
    axes: Axes,
    name: str,
    events: EventSequence,
    colour: str,
    lanes: list[list[_Label]],
    hidden: int,
    top: float,
    height: float,
    duration_s: float,
    highest: float,
    note: str,
) -> None:
    """Name at the left, points first, then the lanes; ``top`` and ``height`` in inches from the axes' top."""
    seconds = duration_s / PLOT  # seconds per inch
    axes.add_patch(Rectangle((-0.1 * seconds, top), 0.045 * seconds, height, fc=colour, ec="none", clip_on=False))
    axes.text(
        -0.2 * seconds, top + 0.1, name, ha="right", va="center", color=colour, fontproperties=font(10, bold=True)
    )
    if hidden:
        where = (-0.2 * seconds, top + 0.32)
        axes.text(*where, f"{hidden} more\nnot drawn", ha="right", va="center", color=MUTED, fontproperties=font(7.5))
    if not len(events):
        axes.text(0.05 * seconds, top + 0.12, note, va="center", color=MUTED, style="italic", fontsize=9.5)
        return
    points = [e for e in events if _is_point_mark(e)]
    if points:
        _draw_points(axes, points, colour, top, duration_s, highest)
        top += POINTS_LANE
    for i, lane in enumerate(lanes):
        for label in lane:
            _draw_bar(axes, label, colour, top + i * LANE, duration_s)


def _draw_bar(axes: Axes, label: _Label, colour: str, y: float, duration_s: float) -> None:
    seconds = duration_s / PLOT
    start_s, end_s = label.event.start_s, label.event.end_s
    if start_s is not None and end_s is not None:
        start, end = min(start_s, duration_s), min(end_s, duration_s)
        if start_s == end_s:
            axes.plot([start], [y + BAR / 2], "D", color=colour, ms=7, clip_on=False, zorder=3)
        else:
            width = max(end - start, 0.03 * seconds)
            start = min(start, duration_s - width)
            style = FancyBboxPatch(
                (start, y), width, BAR, boxstyle="square,pad=0", fc=colour, ec=PAPER, lw=0.8, zorder=3
            )
            axes.add_patch(style)
        if end_s > duration_s:  # the bar is cut at the end of the video; its label says where it ends
            axes.plot([duration_s], [y + BAR / 2], ">", color=colour, ms=8, clip_on=False, zorder=4)
    where = (label.left * seconds, y + BAR + 0.03)
    paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}  # keeps grid lines out of the words
    axes.text(*where, label.text, va="top", color=INK, fontproperties=font(9), parse_math=False, bbox=paper, zorder=4)


def _draw_points(axes: Axes, points: list[Event], colour: str, top: float, duration_s: float, highest: float) -> None:
    """Stems as high as their score (``highest`` fills the lane); a score is printed where there is room for it."""
    floor = top + POINTS_LANE - 0.1
    axes.plot([0, duration_s], [floor, floor], color=colour, lw=0.8, alpha=0.4, zorder=2)
    room = 0.0
    for event in sorted(points, key=lambda e: e.start_s or 0.0):
        x = min(event.start_s or 0.0, duration_s)
        tip = floor - (POINTS_LANE - 0.32) * max(event.scores[0], 0.0) / highest
        axes.plot([x, x], [floor, tip], color=colour, lw=2, zorder=3, clip_on=False)
        marker = "o" if (event.start_s or 0.0) <= duration_s else ">"  # past the end of the video
        axes.plot([x], [tip], marker, color=colour, ms=6, zorder=4, clip_on=False)
        text = f"{event.scores[0]:g}"
        half = text_width(text, 8) / 2
        at = x / duration_s * PLOT
        if at - half >= room:
            axes.text(x, tip - 0.05, text, ha="center", va="bottom", color=INK, fontproperties=font(8), zorder=5)
            room = at + half + 0.03
