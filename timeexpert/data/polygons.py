"""Polygons as masks, by the rule of the COCO API (``common/maskApi.c``, ``rleFrPoly``): pixel for pixel the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .mask_rle import MAX_PIXELS, MaskError

SCALE = 5  # the outline is walked on a grid this much finer than the pixels
MAX_COORDINATE = 1e5


def polygons_mask(polygons: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The union of ``polygons``, each ``[x1, y1, x2, y2, ...]`` in pixels, as bool [H, W] of ``size`` (height, width).

    Raises :class:`MaskError` where one is no list of 3 points or more.
    """
    height, width = size
    if height * width > MAX_PIXELS:
        raise MaskError(f"size ({list(size)}) must be [height, width] of {MAX_PIXELS} pixels at most.")
    mask = np.zeros(size, dtype=bool)
    for i, polygon in enumerate(polygons if isinstance(polygons, (list, tuple)) else [polygons]):
        try:
            points = np.array(polygon, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            points = np.zeros(0)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not (np.abs(points) < MAX_COORDINATE).all():
            raise MaskError(
                f"polygon {i} ({polygon!r:.60}) must be [x1, y1, x2, y2, ...], 3 points or more, in pixels."
            )
        mask |= _filled(points.reshape(-1, 2), height, width)
    return mask


def _filled(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    corners = (SCALE * points + 0.5).astype(np.int64)  # towards zero
    outline = np.concatenate([_walk(a, b) for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)])
    u, v = outline.T
    # Where the outline passes from one fine column to the next, and that column is the middle of a pixel's, the pixels
    # below are on its other side.
    crossing = u[1:] != u[:-1]
    x = (np.where(u[1:] < u[:-1], u[1:], u[1:] - 1)[crossing] + 0.5) / SCALE - 0.5
    y = (np.minimum(v[1:], v[:-1])[crossing] + 0.5) / SCALE - 0.5
    inside = (np.floor(x) == x) & (x >= 0) & (x < width)
    rows = np.ceil(np.clip(y[inside], 0, height)).astype(np.int64)
    flips = np.bincount(x[inside].astype(np.int64) * height + rows, minlength=height * width + 1)
    odd = (np.cumsum(flips) % 2).astype(bool)[: height * width]
    return odd.reshape(width, height).T


def _walk(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """The points of the fine grid from ``start`` to ``end``, one per step of the longer axis."""
    (xs, ys), (xe, ye) = start.tolist(), end.tolist()
    dx, dy = abs(xe - xs), abs(ye - ys)
    flip = (dx >= dy and xs > xe) or (dx < dy and ys > ye)  # always walked upwards, so both directions round alike
    if flip:
        xs, xe, ys, ye = xe, xs, ye, ys
    steps = np.arange(max(dx, dy) + 1)
    if dx >= dy:
        slope = (ye - ys) / dx if dx else 0.0
        out = np.stack([xs + steps, np.trunc(ys + slope * steps + 0.5).astype(np.int64)], axis=1)
    else:
        slope = (xe - xs) / dy
        out = np.stack([np.trunc(xs + slope * steps + 0.5).astype(np.int64), ys + steps], axis=1)
    return out[::-1] if flip else out
