"""One colour per expert, all equally bright, so that each reads on white paper and on the dark card of a page."""

from __future__ import annotations

from colorsys import hls_to_rgb
from functools import cache

LUMINANCE = 0.2  # WCAG's relative luminance: contrast 4.2 on white, 3.9 on the dark card
SATURATION = 0.62
FIRST_HUE, GOLDEN = 0.58, 0.618034  # steps of the golden ratio keep any number of hues apart

FAINT = 0.3  # strength of an expert that took a token which none had accepted


@cache
def expert_colour(expert: int) -> str:
    """``#rrggbb``. Neighbours differ most; beyond a dozen experts the place in a picture tells them apart."""
    hue = (FIRST_HUE + expert * GOLDEN) % 1.0
    low, high = 0.0, 1.0
    for _ in range(20):
        lightness = (low + high) / 2
        if luminance(hls_to_rgb(hue, lightness, SATURATION)) < LUMINANCE:
            low = lightness
        else:
            high = lightness
    return "#" + "".join(f"{round(255 * part):02x}" for part in hls_to_rgb(hue, low, SATURATION))


def opacity(strength: float) -> float:
    """How opaque a cell of this strength (0 to 1) is drawn: the weakest can still be seen."""
    return 0.12 + 0.88 * strength


def luminance(rgb: tuple[float, float, float]) -> float:
    """Relative luminance of an sRGB colour with parts from 0 to 1 (WCAG 2)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
