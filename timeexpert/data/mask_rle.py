"""COCO's run-length masks: ``{"size": [H, W], "counts": ...}``, compressed or not, read and written with numpy alone.

Pixels run down the columns first. ``counts`` are the lengths of runs of 0 and 1 in turn, the first one of 0. The
compressed form writes each count as digits of five bits, the lowest first, each digit plus 48 as one character; bit
32 of a digit says that another follows, and bit 16 of the last one is the sign. From the fourth count on, what is
written is the difference to the count two before (COCO API, ``common/maskApi.c``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timeexpert.errors import UserError

MAX_PIXELS = 2**28  # of one mask; a size beyond that is a mistake, not a mask
MAX_MASKLET_PIXELS = 2**31  # of all masks of one object, a byte each


class MaskError(UserError):
    """A mask that cannot be read, or does not fit where it stands."""


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """One mask, bool [H, W]. ``counts`` is a list of numbers, or the compressed text or bytes.

    Raises :class:`MaskError` where the size is no size or the counts do not fill it exactly.
    """
    height, width = mask_size(rle)
    lengths = run_lengths(rle)
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def run_lengths(rle: Mapping[str, Any]) -> list[int]:
    """Lengths of the runs of 0 and 1 in turn, without writing out the pixels. Raises as :func:`decode_rle`."""
    height, width = mask_size(rle)
    counts = rle.get("counts")
    if isinstance(counts, (str, bytes)):
        lengths = _decompressed(counts)
    else:
        try:
            lengths = [int(count) for count in counts]  # type: ignore[union-attr]
        except (TypeError, ValueError, OverflowError):
            raise MaskError(f"counts ({_short(counts)}) must be a list of whole numbers, or a text.") from None
    if any(length < 0 for length in lengths) or sum(lengths) != height * width:
        raise MaskError(
            f"counts ({_short(counts)}) give {sum(lengths)} pixels, some run of them below 0, or not the "
            f"{height * width} of size {[height, width]}. Write the runs down the columns, zeros first."
        )
    return lengths


def encode_rle(mask: NDArray[Any]) -> dict[str, Any]:
    """``mask`` [H, W] as a compressed run-length mask; ``counts`` is text."""
    flat = (np.asarray(mask) != 0).T.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, len(flat))[: len(flat)]
    lengths = np.diff(ends, prepend=0).tolist()
    if len(flat) and flat[0]:
        lengths.insert(0, 0)
    return {"size": list(mask.shape), "counts": _compressed(lengths)}


def union_rle(rles: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The compressed run-length mask of the pixels that are in any of ``rles``, all of one size.

    Raises :class:`MaskError` as :func:`decode_rle`, and where sizes differ.
    """
    sizes = [mask_size(rle) for rle in rles]
    if len(set(sizes)) != 1:
        raise MaskError(f"sizes {sorted(set(sizes))} differ; masks that belong together have one size.")
    height, width = sizes[0]
    steps: dict[int, int] = {}  # pixel -> how many masks begin there, less those that end
    for rle in rles:
        ends = np.cumsum(run_lengths(rle)).tolist()
        for place, change in zip(ends, [1, -1] * len(ends), strict=False):
            steps[place] = steps.get(place, 0) + change
    lengths, before, inside = [], 0, 0
    for place in sorted(steps):
        if place < height * width and (inside == 0) != (inside + steps[place] == 0):
            lengths.append(place - before)
            before = place
        inside += steps[place]
    return {"size": [height, width], "counts": _compressed([*lengths, height * width - before])}


def decode_masklet(
    frames: Iterable[Mapping[str, Any] | None], *, size: tuple[int, int], num_frames: int
) -> NDArray[np.bool_]:
    """The masks of one object over time, bool [T, H, W]; ``None`` is a frame without it.

    Raises :class:`MaskError` where there are not ``num_frames`` or one has another size, naming the frame.
    """
    rles = list(frames)
    if num_frames * size[0] * size[1] > MAX_MASKLET_PIXELS:
        raise MaskError(f"{num_frames} masks of {list(size)} are more than {MAX_MASKLET_PIXELS} pixels together.")
    if len(rles) != num_frames:
        raise MaskError(f"{len(rles)} masks for {num_frames} frames; give one for each, None where it is empty.")
    masks = np.zeros((num_frames, *size), dtype=bool)
    for t, rle in enumerate(rles):
        if rle is None:
            continue
        try:
            if mask_size(rle) != size:
                raise MaskError(f"size {list(mask_size(rle))} is not {list(size)}, that of the video.")
            masks[t] = decode_rle(rle)
        except MaskError as error:
            raise MaskError(f"frame {t}: {error}") from None
    return masks


def mask_size(rle: Any) -> tuple[int, int]:
    """(rows, columns) of a run-length mask. Raises :class:`MaskError`."""
    size = rle.get("size") if isinstance(rle, Mapping) else None
    if (
        not isinstance(size, Sequence)
        or len(size) != 2
        or not all(isinstance(n, int) and n >= 1 for n in size)
        or size[0] * size[1] > MAX_PIXELS
    ):
        raise MaskError(f"size ({_short(size)}) must be [rows, columns] of {MAX_PIXELS} pixels at most.")
    return int(size[0]), int(size[1])


def _decompressed(text: str | bytes) -> list[int]:
    try:
        octets = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise MaskError(f"counts ({_short(text)}) must be ASCII.") from None
    digits = np.frombuffer(octets, dtype=np.uint8).astype(np.int64) - 48
    last = (digits & 32) == 0
    if len(digits) and (digits.min() < 0 or digits.max() > 63 or not last[-1]):
        raise MaskError(f"counts ({_short(text)}) hold a character out of range or break off.")
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]])) if len(digits) else np.zeros(0, dtype=np.int64)
    place = np.arange(len(digits)) - np.repeat(starts, np.diff(starts, append=len(digits)))
    if len(digits) and place.max() > 6:
        raise MaskError(f"counts ({_short(text)}) hold a number of more than 35 bits.")
    parts = (digits & 31) << (5 * place)
    numbers = np.add.reduceat(parts, starts) if len(digits) else parts
    negative = (digits[last] & 16) != 0
    numbers -= np.where(negative, np.int64(1) << (5 * (place[last] + 1)), 0)
    # Counts 1, 3, 5, ... are sums of differences from the second one on, counts 2, 4, ... likewise.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return [int(n) for n in numbers]


def _compressed(lengths: Sequence[int]) -> str:
    octets = bytearray()
    for i, length in enumerate(lengths):
        left = length - lengths[i - 2] if i > 2 else length
        while True:
            digit, left = left & 31, left >> 5
            done = left == (-1 if digit & 16 else 0)
            octets.append(48 + digit + (0 if done else 32))
            if done:
                break
    return octets.decode("ascii")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
