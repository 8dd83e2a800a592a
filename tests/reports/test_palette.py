from __future__ import annotations

import pytest

from timeexpert.reports.palette import LUMINANCE, expert_colour, luminance, opacity

WHITE, DARK_CARD = (1.0, 1.0, 1.0), (0x1A / 255, 0x1F / 255, 0x26 / 255)


def rgb(colour: str) -> tuple[float, float, float]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_luminance_of_black_and_white():
    assert luminance((0.0, 0.0, 0.0)) == 0.0
    assert luminance(WHITE) == pytest.approx(1.0)
    assert contrast(WHITE, (0.0, 0.0, 0.0)) == pytest.approx(21.0)


@pytest.mark.parametrize("expert", range(64))
def test_every_colour_reads_on_white_and_on_the_dark_card(expert: int):
    colour = rgb(expert_colour(expert))
    assert luminance(colour) == pytest.approx(LUMINANCE, abs=0.01)
    assert contrast(colour, WHITE) > 3 and contrast(colour, DARK_CARD) > 3


def test_the_first_experts_have_colours_far_apart():
    colours = [rgb(expert_colour(e)) for e in range(6)]
    for i, one in enumerate(colours):
        for other in colours[i + 1 :]:
            assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) > 0.05


def test_the_weakest_cell_can_be_seen():
    assert (opacity(0.0), opacity(1.0)) == (0.12, 1.0)
