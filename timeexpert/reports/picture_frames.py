"""What pictures of one answer share: the frames that the model saw above an axis of time."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isfinite

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from .drawing import DPI, GRID, INK, MUTED, PAPER, font, one_line, wrap
from .errors import ReportError

# All lengths below are inches unless a name says otherwise.
WIDTH, LEFT, RIGHT = 12.0, 1.15, 0.3
PLOT = WIDTH - LEFT - RIGHT
MAX_FRAMES, FRAME_COLUMNS, MAX_FRAME_HEIGHT, MAX_FRAME_PIXELS = 32, 16, 1.7, 480


def open_picture(
    prompt: str,
    frames: NDArray[np.uint8],
    frame_times_s: Sequence[float],
    duration_s: float,
    bars_height: float,
    legend_height: float = 0.0,
) -> tuple[Figure, Axes]:
    """A figure with the prompt and the frames, and its axes for the bars: x in seconds, y in inches from their top.

    ``frames`` is uint8 [n, H, W, 3] with one time per frame; of more than 32 every k-th is shown. ``legend_height`` is
    kept free at the bottom. Raises :class:`ReportError` on arrays and times that do not fit together.
    """
    check_frames(frames, frame_times_s, duration_s)
    given = len(frames)
    frames, times = _pick_frames(frames, list(frame_times_s))
    title = wrap(one_line(prompt), 12.5, WIDTH - 0.6, lines=2, bold=True)
    strip_height, columns, cell_height = _strip_size(frames)
    title_height = 0.26 * len(title) + 0.22
    below = legend_height + 0.5
    height = title_height + strip_height + bars_height + below
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=PAPER)
    for i, line in enumerate(title):
        y = 1 - (0.26 + 0.26 * i) / height
        figure.text(0.3 / WIDTH, y, line, color=INK, fontproperties=font(12.5, bold=True), parse_math=False)
    if len(frames):
        box = (LEFT / WIDTH, (bars_height + below) / height, PLOT / WIDTH, strip_height / height)
        _draw_frames(figure.add_axes(box), frames, times, strip_height, columns, cell_height)
        if given > len(frames):
            where = ((LEFT - 0.2) / WIDTH, 1 - (title_height + 0.15) / height)
            note = f"{len(frames)} of {given}\nframes"
            figure.text(*where, note, ha="right", va="center", color=MUTED, fontproperties=font(8))
    axes = figure.add_axes((LEFT / WIDTH, (legend_height + 0.42) / height, PLOT / WIDTH, bars_height / height))
    _style_axis(axes, duration_s, bars_height, times)
    return figure, axes


def check_frames(frames: NDArray[np.uint8], frame_times_s: Sequence[float], duration_s: float) -> None:
    """Raise :class:`ReportError` on arrays and times that do not fit together."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape[1:]:
        raise ReportError(f"frames of shape {frames.shape} and type {frames.dtype} must be uint8 [n, H, W, 3].")
    if len(frames) != len(frame_times_s):
        raise ReportError(f"there are {len(frames)} frames but {len(frame_times_s)} frame times; give one for each.")
    if not isfinite(duration_s) or duration_s <= 0:
        raise ReportError(f"duration_s ({duration_s!r}) must be a positive number of seconds.")


def _pick_frames(frames: NDArray[np.uint8], times: list[float]) -> tuple[NDArray[np.uint8], list[float]]:
    """At most MAX_FRAMES frames, evenly, none larger than the picture needs."""
    if len(frames) > MAX_FRAMES:
        kept = np.linspace(0, len(frames) - 1, MAX_FRAMES).round().astype(int)
        frames, times = frames[kept], [times[i] for i in kept]
    step = max(1, ceil(max(frames.shape[1:3]) / MAX_FRAME_PIXELS))
    return frames[:, ::step, ::step], times


def _strip_size(frames: NDArray[np.uint8]) -> tuple[float, int, float]:
    """Height of the whole strip, frames per row, height of one frame."""
    if not len(frames):
        return 0.0, 0, 0.0
    rows = ceil(len(frames) / FRAME_COLUMNS)
    columns = ceil(len(frames) / rows)
    aspect = frames.shape[1] / frames.shape[2]
    cell_height = min(MAX_FRAME_HEIGHT, (PLOT / columns - 0.05) * aspect)
    return rows * (cell_height + 0.24) + 0.1, columns, cell_height


def _draw_frames(
    axes: Axes, frames: NDArray[np.uint8], times: list[float], height: float, columns: int, cell_height: float
) -> None:
    """Rows of frames with their times below them."""
    axes.set_xlim(0, PLOT)
    axes.set_ylim(height, 0)
    axes.axis("off")
    cell_width = PLOT / columns
    image_width = min(cell_width - 0.05, cell_height * frames.shape[2] / frames.shape[1])
    for i, (frame, time_s) in enumerate(zip(frames, times, strict=True)):
        x = (i % columns) * cell_width + (cell_width - image_width) / 2
        y = (i // columns) * (cell_height + 0.24)
        axes.imshow(frame, extent=(x, x + image_width, y + cell_height, y), aspect="auto", zorder=1)
        axes.add_patch(Rectangle((x, y), image_width, cell_height, fill=False, ec="#00000030", lw=0.6, zorder=2))
        where = (x + image_width / 2, y + cell_height + 0.04)
        axes.text(*where, f"{time_s:.1f} s", ha="center", va="top", color=MUTED, fontproperties=font(8))
    axes.set_xlim(0, PLOT)  # imshow moves the limits
    axes.set_ylim(height, 0)


def _style_axis(axes: Axes, duration_s: float, height: float, frame_times_s: list[float]) -> None:
    """Seconds from left to right, inches from top to bottom, marks where frames were seen."""
    axes.set_xlim(0, duration_s)
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=GRID, lw=0.8)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(axis="x", colors=MUTED, labelsize=8.5, length=3)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    axes.plot(frame_times_s, [0.0] * len(frame_times_s), "v", color=MUTED, ms=3.5, clip_on=False, zorder=3)
