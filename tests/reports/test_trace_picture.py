from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from timeexpert.reports.drawing import DPI
from timeexpert.reports.palette import expert_colour
from timeexpert.reports.trace_picture import LEFT, PLOT, WIDTH, _lines, draw_trace

from .fake_run import frames
from .fake_trace import EVIL, make_trace, token


def picture(layers: tuple[int, ...] = (0, 1), **changes: object) -> np.ndarray:
    trace = make_trace(**changes)  # type: ignore[arg-type]
    image = Image.open(BytesIO(draw_trace(trace, layers, frames(2), video="clip.mp4")))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def pixels_in(image: np.ndarray, expert: int) -> int:
    colour = expert_colour(expert)
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(image.astype(int) - rgb).max(2) <= 2).sum())


def test_an_expert_is_drawn_in_its_colour_where_it_computed_something() -> None:
    both, one = picture(), picture(layers=(1,))
    assert both.shape[1] == round(WIDTH * DPI) and one.shape[0] < both.shape[0]
    assert all(pixels_in(both, expert) for expert in range(4))
    assert not pixels_in(one, 3)  # in layer 1 it computed nothing
    assert pixels_in(both, 2) > pixels_in(both, 1) > 0  # full shares of two frames' times against one frame


@pytest.mark.parametrize("slots", [4, 64])
def test_a_long_answer_wraps_and_grows_downwards(slots: int) -> None:
    short, long = picture(slots=slots), picture(slots=slots, tokens=200)
    assert long.shape[1] == short.shape[1] and long.shape[0] > 2 * short.shape[0]


def test_words_stay_whole_and_every_token_has_its_place() -> None:
    tokens = [token(text, "text", word, (0,)) for word in range(90) for text in ("mo" * (word % 9 + 1), "ve", "s")]
    tokens += [token("0", "time", 90, (0,)) for _ in range(400)]  # longer than a line
    lines = list(_lines(tokens))
    assert [t for line in lines for _, _, t in line] == tokens
    for line in lines:
        assert line[0][0] == LEFT
        assert all(x + width <= LEFT + PLOT + 1e-9 for x, width, _ in line)
        assert all(x + width <= y + 1e-9 for (x, width, _), (y, _, _) in zip(line, line[1:], strict=False))
    heads = [line[0][2].text for line in lines]
    assert all(head[:2] == "mo" for head in heads if head != "0")  # no line begins inside a word that fits
    assert heads.count("0") > 1 and len(heads) - heads.count("0") > 5


def test_odd_text_is_drawn_as_it_is() -> None:
    assert picture(text="$x_2$ \x00\u0378" + EVIL, prompt="$\\frac$ " + "long " * 400).shape[1] == round(WIDTH * DPI)
