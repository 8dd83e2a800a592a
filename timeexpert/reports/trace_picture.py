"""``timeexpert experts trace`` as a PNG: experts under the frames and under the words of an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from .drawing import DPI, INK, MUTED, PAPER, fit, font, one_line, png_of, text_width, wrap
from .palette import FAINT, expert_colour, opacity
from .trace import ExpertTrace, TokenTrace, shares

# All lengths are inches.
WIDTH, LEFT, RIGHT = 12.0, 0.95, 0.3
PLOT = WIDTH - LEFT - RIGHT
FRAME_COLUMNS, FRAME_GAP, MAX_FRAME_WIDTH = 16, 0.08, 1.3
TOKEN_WIDTH, WORD_GAP = 0.11, 0.12  # a token's least width; between two words
STRIP_GAP, LINE_GAP = 0.05, 0.2
GROUND = "#eef1f4"
POINTS = 8.5


@dataclass(frozen=True)
class _Column:
    """A token or a half of a frame: where it is drawn and who computed it, per drawn layer."""

    x: float
    width: float
    experts: tuple[Mapping[int, float], ...]


def draw_trace(trace: ExpertTrace, layers: Sequence[int], thumbnails: NDArray[np.uint8], *, video: str) -> bytes:
    """The picture as PNG bytes. ``thumbnails``: uint8 [n, H, W, 3], the frames at ``trace.frames``'s times."""
    canvas = _Canvas(trace, layers)
    title = wrap(one_line(trace.request.prompt), 12.5, WIDTH - 0.6, lines=2, bold=True)
    for line in title:
        canvas.write(0.3, line, 12.5, INK, bold=True)
        canvas.y += 0.27
    about = (
        f"{video}, {trace.request.clip.duration_s:.1f} s; router {trace.router}; layers {', '.join(map(str, layers))}"
    )
    canvas.write(0.3, fit(one_line(about), 9, WIDTH - 0.6), 9, MUTED)
    canvas.y += 0.32
    canvas.frames(thumbnails)
    canvas.answer()
    canvas.legend()
    return canvas.png()


class _Canvas:
    """Draws from the top down; ``y`` is how far it got. The height is known at the end."""

    def __init__(self, trace: ExpertTrace, layers: Sequence[int]) -> None:
        self.trace, self.layers = trace, layers
        self.figure = Figure(dpi=DPI, facecolor=PAPER)
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        self.y = 0.3
        self.cells: list[Rectangle] = []
        slots = max(len(on) for on in trace.active)
        self.row = max(0.018, min(0.075, 0.5 / slots))

    def write(
        self, x: float, text: str, points: float, colour: str, *, bold: bool = False, right: bool = False
    ) -> None:
        """Text whose middle is at the current height."""
        look: dict[str, Any] = {"color": colour, "fontproperties": font(points, bold), "parse_math": False}
        self.axes.text(x, self.y, text, va="center", ha="right" if right else "left", **look)

    def frames(self, thumbnails: NDArray[np.uint8]) -> None:
        """Frames in rows, each with its time, above the strips of its visual tokens (left) and of its time (right)."""
        self._heading("frames", "left half: visual tokens, right half: tokens of the frame\u2019s time")
        count = len(self.trace.frames)
        across = -(-count // -(-count // FRAME_COLUMNS))
        cell = min(PLOT / across, MAX_FRAME_WIDTH)
        width = cell - FRAME_GAP
        height = width * thumbnails.shape[1] / thumbnails.shape[2]
        for start in range(0, count, across):
            columns = []
            for i, frame in enumerate(self.trace.frames[start : start + across]):
                x = LEFT + i * cell
                box = (x, x + width, self.y + height, self.y)
                self.axes.imshow(thumbnails[start + i], extent=box, aspect="auto", zorder=1)
                middle = x + width / 2
                when: dict[str, Any] = {"ha": "center", "va": "center", "color": MUTED, "fontproperties": font(8)}
                self.axes.text(middle, self.y + height + 0.1, f"{frame.time_s:.1f} s", **when)
                for half, by_layer in enumerate((frame.vision, frame.frame_time)):
                    seen = tuple(shares(by_layer[layer]) for layer in self.layers)
                    columns.append(_Column(x + half * width / 2, width / 2, seen))
            self.y += height + 0.2
            self._strips(columns)
            self.y += LINE_GAP

    def answer(self) -> None:
        """The answer's tokens, wrapped by words, each above the strips of who computed it."""
        self._heading(
            "answer", "\u25b8 begins an event, comma and semicolon end a number; faint: no expert accepted the token"
        )
        for line in _lines(self.trace.tokens):
            self.y += 0.08
            columns = []
            for x, width, token in line:
                look: dict[str, Any] = {
                    "ha": "center",
                    "va": "center",
                    "fontproperties": font(POINTS),
                    "parse_math": False,
                }
                ink = INK if token.type == "text" else MUTED
                self.axes.text(x + width / 2, self.y, one_line(token.text), color=ink, **look)
                seen = tuple(
                    dict.fromkeys(token.experts[layer], FAINT if token.fell_back[layer] else 1.0)
                    for layer in self.layers
                )
                columns.append(_Column(x, width, seen))
            self.y += 0.12
            self._strips(columns)
            self.y += LINE_GAP

    def legend(self) -> None:
        """The colours of the experts that are drawn."""
        self._heading("experts", "rows of a strip from the top: slots 0, 1, 2, ...")
        x = LEFT
        for expert in self.trace.used(self.layers):
            if x > WIDTH - RIGHT - 0.4:
                x, self.y = LEFT, self.y + 0.2
            self.axes.add_patch(Rectangle((x, self.y - 0.05), 0.1, 0.1, fc=expert_colour(expert), ec="none"))
            self.write(x + 0.14, str(expert), POINTS, INK)
            x += 0.42
        self.y += 0.25

    def png(self) -> bytes:
        """All that was drawn."""
        self.axes.add_collection(PatchCollection(self.cells, match_original=True, zorder=2))
        self.figure.set_size_inches(WIDTH, self.y)
        self.axes.set_xlim(0, WIDTH)
        self.axes.set_ylim(self.y, 0)
        return png_of(self.figure)

    def _heading(self, name: str, how: str) -> None:
        self.write(0.3, name, 10, INK, bold=True)
        self.write(LEFT, how, 8.5, MUTED)
        self.y += 0.22

    def _strips(self, columns: Sequence[_Column]) -> None:
        """One strip per layer below the current height, a row per expert slot."""
        for place, layer in enumerate(self.layers):
            height = self.row * len(self.trace.active[layer])
            label: dict[str, Any] = {"ha": "right", "va": "center", "color": MUTED, "fontproperties": font(8)}
            self.axes.text(LEFT - 0.12, self.y + height / 2, f"layer {layer}", **label)
            for column in columns:
                inner = column.width - 0.012
                self.cells.append(Rectangle((column.x, self.y), inner, height, fc=GROUND, ec="none"))
                for expert, share in column.experts[place].items():
                    at = (column.x, self.y + expert * self.row)
                    look: dict[str, Any] = {"fc": expert_colour(expert), "ec": "none", "alpha": opacity(share)}
                    self.cells.append(Rectangle(at, inner, self.row, **look))
            self.y += height + STRIP_GAP


def _lines(tokens: Sequence[TokenTrace]) -> Iterator[list[tuple[float, float, TokenTrace]]]:
    """Tokens with place and width, line by line; a word is broken only if it is longer than a line."""
    line: list[tuple[float, float, TokenTrace]] = []
    x = LEFT
    for _, group in groupby(tokens, key=lambda token: token.word):
        word = [(max(TOKEN_WIDTH, text_width(one_line(t.text), POINTS) + 0.03), t) for t in group]
        if line and x + sum(width for width, _ in word) > LEFT + PLOT:
            yield line
            line, x = [], LEFT
        for width, token in word:
            if line and x + width > LEFT + PLOT:
                yield line
                line, x = [], LEFT
            line.append((x, width, token))
            x += width
        x += WORD_GAP
    if line:
        yield line
