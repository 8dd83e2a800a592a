"""Region similarity J and boundary similarity F of masks, frame by frame.

Definitions: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR
2016), as the DAVIS 2017 evaluation computes them (``davis2017/metrics.py``).

Masks are packed into bits, 64 pixels to a word, and cut to the box around what is in them. A dilation by a disk is
then a few shifts of words: one pixel to both sides for each step of the disk's half width, and an OR per row of it.

Shapes: T frames, H rows, W columns, Q words of 64 columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import EvaluationError

Bits = NDArray[np.uint64]
TOLERANCE = 0.008  # of the image's diagonal
_WORD = np.dtype("<u8")
_CHUNK_PIXELS = 2**21  # of a mask's frames that are worked on together: packed, they stay in the processor's cache


@dataclass(frozen=True, eq=False)
class Planes:
    """Masks of one object in T frames, packed: ``area`` and ``boundary`` and the boundary dilated, each [T, H, Q]."""

    area: Bits
    boundary: Bits
    dilated: Bits


def frame_scores(
    truth: NDArray[Any], predicted: NDArray[Any], void: NDArray[Any] | None = None, *, tolerance: float = TOLERANCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """J and F of each frame, both [T] in [0, 1].

    ``truth``, ``predicted`` and ``void`` are [T, H, W]; what is not 0 (and not NaN) is the object. Void pixels
    belong to neither mask. J of two empty masks is 1. F is the harmonic mean of the shares of boundary pixels, of
    either mask, with a boundary pixel of the other one within ``tolerance`` (of the diagonal, rounded up to pixels;
    from 1: pixels). Both without a boundary: 1, which is also the F of a full mask and an empty one; only one: 0.
    Raises :class:`EvaluationError` where shapes differ.
    """
    frames, height, width = _size(truth, predicted, void)
    radius = _radius(height, width, tolerance)
    j, f = np.ones(frames), np.ones(frames)
    step = max(1, _CHUNK_PIXELS // (height * width))
    for begin in range(0, frames, step):
        chunk = slice(begin, begin + step)
        keep = None if void is None else ~_packed(void[chunk])
        a, b = _planes([_packed(truth[chunk]), _packed(predicted[chunk])], keep, width, radius)
        j[chunk], f[chunk] = _compare(a, b)
    return j, f


def pair_scores(
    truth: NDArray[Any], predicted: NDArray[Any], void: NDArray[Any] | None = None, *, tolerance: float = TOLERANCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """J and F of each of P predicted objects against each of O true ones, both [P, O, T] (see :func:`frame_scores`).

    ``truth`` is [O, T, H, W], ``predicted`` [P, T, H, W]; each object is prepared once, not once per pair.
    """
    frames, height, width = _size(truth, predicted, void)
    radius = _radius(height, width, tolerance)
    j, f = np.ones((2, len(predicted), len(truth), frames))
    if not len(truth) or not len(predicted):
        return j, f
    for t in range(frames):
        now = slice(t, t + 1)
        keep = None if void is None else ~_packed(void[now])
        planes = _planes([_packed(masks[now]) for masks in (*truth, *predicted)], keep, width, radius)
        for o, a in enumerate(planes[: len(truth)]):
            for p, b in enumerate(planes[len(truth) :]):
                j[p, o, now], f[p, o, now] = _compare(a, b)
    return j, f


def _size(truth: NDArray[Any], predicted: NDArray[Any], void: NDArray[Any] | None) -> tuple[int, int, int]:
    shapes = [truth.shape, predicted.shape, *([] if void is None else [void.shape])]
    frames, height, width = (0, 0, 0) if truth.ndim < 3 else truth.shape[-3:]
    if len({shape[-3:] for shape in shapes}) > 1 or truth.ndim != predicted.ndim or not frames * height * width:
        raise EvaluationError(
            f"masks of shapes {', '.join(map(str, shapes))} (truth, predicted, void) must agree in frames, rows and "
            "columns, with 1 or more of each."
        )
    return frames, height, width


def _compare(a: Planes, b: Planes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    union = _count(a.area | b.area)
    with np.errstate(divide="ignore", invalid="ignore"):
        j = np.where(union > 0, _count(a.area & b.area) / union, 1.0)
        edge_a, edge_b = _count(a.boundary), _count(b.boundary)
        precision = _count(b.boundary & a.dilated) / edge_b
        recall = _count(a.boundary & b.dilated) / edge_a
        f = np.where(precision + recall > 0, 2 * precision * recall / (precision + recall), 0.0)
    f[(edge_a == 0) | (edge_b == 0)] = 0.0
    f[(edge_a == 0) & (edge_b == 0)] = 1.0
    return j, f


def _planes(masks: list[Bits], keep: Bits | None, width: int, radius: int) -> list[Planes]:
    """Each of ``masks`` [T, H, Q] as planes, all cut to the same box: what is in any, and a pixel up and left of it."""
    if keep is not None:
        masks = [mask & keep for mask in masks]
    height = masks[0].shape[1]
    anything = np.bitwise_or.reduce([np.bitwise_or.reduce(mask, axis=0) for mask in masks], axis=0)
    rows, words = np.flatnonzero(anything.any(axis=1)), np.flatnonzero(anything.any(axis=0))
    if not len(rows):
        empty = np.zeros((len(masks[0]), 1, 1), dtype=_WORD)
        return [Planes(empty, empty, empty)] * len(masks)
    top, left = max(rows[0] - 1, 0), max(words[0] - 1, 0)
    box = np.s_[:, top : rows[-1] + 1, left : words[-1] + 1]
    last_row = rows[-1] == height - 1  # the image's own last row and column have rules of their own
    last_column = width - 1 - 64 * left
    found = []
    for mask in masks:
        area = np.ascontiguousarray(mask[box])
        boundary = _boundary(area, last_row, last_column)
        found.append(Planes(area, boundary, _dilated(boundary, radius)))
    return found


def _boundary(area: Bits, last_row: bool, last_column: int) -> Bits:
    """Pixels that differ from their right, lower or lower right neighbour.

    In the image's last row only the right neighbour counts, in its last column only the lower one, and its last
    pixel is never a boundary. (So a mask has no boundary where it leaves the image.)
    """
    right = _shifted_left(area)
    below, below_right = np.zeros_like(area), np.zeros_like(area)
    below[:, :-1], below_right[:, :-1] = area[:, 1:], right[:, 1:]
    edge: Bits = (area ^ right) | (area ^ below) | (area ^ below_right)
    if last_row:
        edge[:, -1] = area[:, -1] ^ right[:, -1]
    word, bit = divmod(last_column, 64)
    if word < area.shape[2]:
        mask = np.uint64(1 << bit)
        vertical = area[:, :, word] ^ below[:, :, word]
        edge[:, :, word] = (edge[:, :, word] & ~mask) | (vertical & mask)
        if last_row:
            edge[:, -1, word] &= ~mask
    return edge


def _dilated(edge: Bits, radius: int) -> Bits:
    """``edge`` grown by the disk of all pixels at most ``radius`` away, inside the box."""
    grown = np.zeros_like(edge)
    height = edge.shape[1]
    wide = edge.copy()
    reach = [math.isqrt(radius * radius - dy * dy) for dy in range(radius + 1)]
    for half_width in range(radius + 1):
        if half_width:
            wide |= _shifted_left(wide) | _shifted_right(wide)
        for dy in range(min(radius + 1, height)):
            if reach[dy] == half_width:
                grown[:, dy:] |= wide[:, : height - dy]
                grown[:, : height - dy] |= wide[:, dy:]
    return grown


def _shifted_left(bits: Bits) -> Bits:
    """Each pixel takes the place of its left neighbour; nothing comes in at the right."""
    moved = bits >> np.uint64(1)
    moved[:, :, :-1] |= bits[:, :, 1:] << np.uint64(63)
    return moved


def _shifted_right(bits: Bits) -> Bits:
    """Each pixel takes the place of its right neighbour; nothing comes in at the left."""
    moved = bits << np.uint64(1)
    moved[:, :, 1:] |= bits[:, :, :-1] >> np.uint64(63)
    return moved


def _packed(masks: NDArray[Any]) -> Bits:
    """[T, H, W] as bits, [T, H, Q]: column x is bit x % 64 of word x // 64, columns past the last one are 0."""
    flags = masks if masks.dtype == np.bool_ else masks != 0
    if np.issubdtype(masks.dtype, np.inexact):
        flags &= ~np.isnan(masks)
    octets = np.packbits(flags, axis=-1, bitorder="little")
    words = np.zeros((*octets.shape[:-1], -(-masks.shape[-1] // 64) * 8), dtype=np.uint8)
    words[..., : octets.shape[-1]] = octets
    return words.view(_WORD)


def _count(bits: Bits) -> NDArray[np.int64]:
    """Pixels per frame: [T, H, Q] -> [T]."""
    return np.bitwise_count(bits).sum(axis=(1, 2), dtype=np.int64)


def _radius(height: int, width: int, tolerance: float) -> int:
    if not 0 < tolerance < math.inf:
        raise EvaluationError(
            f"tolerance ({tolerance!r}) must be above 0: a share of the diagonal, or 1 and more pixels."
        )
    return math.floor(
        tolerance if tolerance >= 1 else math.ceil(tolerance * math.sqrt(height * height + width * width))
    )
