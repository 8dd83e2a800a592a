"""MaskTrack: where one object is, as a run-length mask for each of some times of a video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timeexpert.errors import did_you_mean

from .mask_rle import MAX_PIXELS, MaskError, decode_rle, encode_rle, mask_size, run_lengths, union_rle

SEG = "[SEG]"  # in the text of an answer, once for each track: the object that it names
MAX_TIME_S = 1e6  # eleven days: what is larger is a time in other units
_FIELDS = ("object_id", "size", "times_s", "rles")


@dataclass(frozen=True)
class MaskTrack:
    """Masks of one object over time.

    ``size``: (height, width) of every mask, which is that of the video's frames as decoded. ``times_s``: seconds from
    the first frame, strictly increasing. ``rles``: the ``counts`` text of COCO's compressed run-length masks
    (:mod:`timeexpert.data.mask_rle`), one per time; ``None`` says that the object is not visible then.

    What a run-length text holds is read by :meth:`mask` and :meth:`check`; the rest is checked when a track is made.
    Raises :class:`MaskError`.
    """

    size: tuple[int, int]
    times_s: tuple[float, ...]
    rles: tuple[str | None, ...]
    object_id: str = ""

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("times_s", self.times_s), ("rles", self.rles)):
            if not isinstance(value, (list, tuple)):
                raise MaskError(f"{name} ({value!r:.60}) must be a list.")
        size = tuple(self.size)
        if len(size) != 2 or not all(type(n) is int and n >= 1 for n in size) or size[0] * size[1] > MAX_PIXELS:
            raise MaskError(
                f"size ({list(size)!r:.60}) must be [height, width] in pixels, {MAX_PIXELS} of them at most: the size "
                "of the video's frames."
            )
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "times_s", tuple(_second(t, i) for i, t in enumerate(self.times_s)))
        object.__setattr__(self, "rles", tuple(self.rles))
        if not self.times_s or len(self.times_s) != len(self.rles):
            raise MaskError(
                f"times_s has {len(self.times_s)} times and rles {len(self.rles)} masks; there must be one mask for "
                "each time, and one at least. Write null where the object is not visible."
            )
        for i, (before, after) in enumerate(pairwise(self.times_s)):
            if before >= after:
                raise MaskError(f"times_s[{i + 1}] ({after}) must be after times_s[{i}] ({before}). Sort the masks.")
        for i, rle in enumerate(self.rles):
            if rle is not None and not isinstance(rle, str):
                raise MaskError(
                    f"rles[{i}] ({rle!r:.60}) must be the text of COCO's compressed counts, or null where the object "
                    "is not visible."
                )
        if not isinstance(self.object_id, str):
            raise MaskError(f"object_id ({self.object_id!r:.60}) must be a string.")

    def mask(self, i: int) -> NDArray[np.bool_]:
        """The mask of the ``i``-th time, bool (height, width); all false where the object is not visible.

        Raises :class:`MaskError` where its run-length text does not decode.
        """
        rle = self.rles[i]
        if rle is None:
            return np.zeros(self.size, dtype=bool)
        try:
            return decode_rle({"size": self.size, "counts": rle})
        except MaskError as error:
            raise MaskError(f"rles[{i}] (at {self.times_s[i]} s): {error}") from None

    def check(self) -> None:
        """Raise :class:`MaskError` for the first run-length text that does not decode to ``size``."""
        for i, rle in enumerate(self.rles):
            if rle is None:
                continue
            try:
                run_lengths({"size": self.size, "counts": rle})
            except MaskError as error:
                raise MaskError(f"rles[{i}] (at {self.times_s[i]} s): {error}") from None

    def at(self, times_s: Sequence[float]) -> MaskTrack:
        """The same object at other times (seconds, strictly increasing): of each the mask of the annotated time that is
        nearest to it, the earlier one of two. That holds before the first and after the last annotated time, too."""
        own = np.array(self.times_s)
        nearest = [int(np.abs(own - time_s).argmin()) for time_s in times_s]
        return MaskTrack(
            self.size, tuple(float(t) for t in times_s), tuple(self.rles[i] for i in nearest), self.object_id
        )

    @classmethod
    def from_masks(cls, masks: Sequence[NDArray[Any]], times_s: Sequence[float], object_id: str = "") -> MaskTrack:
        """The track of ``masks``, each (height, width) and true where the object is; an empty mask is not visible.

        Raises :class:`MaskError` where the masks differ in size, or there is none.
        """
        arrays = [np.asarray(mask) for mask in masks]
        shapes = list(dict.fromkeys(array.shape for array in arrays))
        if len(shapes) != 1 or len(shapes[0]) != 2:
            raise MaskError(f"masks have the shapes {shapes[:4]}; they must all have one shape, (height, width).")
        rles = tuple(encode_rle(array)["counts"] if array.any() else None for array in arrays)
        height, width = shapes[0]
        return cls((height, width), tuple(float(t) for t in times_s), rles, object_id)

    @classmethod
    def from_rles(
        cls, rles: Sequence[Sequence[Mapping[str, Any]]], times_s: Sequence[float], object_id: str = ""
    ) -> MaskTrack:
        """The track of COCO's run-length masks (``{"size", "counts"}``, compressed or not), any number of them for each
        time, which are united; none, or empty ones, are not visible.

        Raises :class:`MaskError` where one does not decode, where sizes differ, and where there is none at all.
        """
        sizes: list[tuple[int, int]] = []
        texts: list[str | None] = []
        for time_s, there in zip(times_s, rles, strict=True):
            try:
                united = union_rle(there) if there else None
            except MaskError as error:
                raise MaskError(f"at {time_s} s: {error}") from None
            if united is not None:
                sizes.append(mask_size(united))
            texts.append(united["counts"] if united is not None and len(run_lengths(united)) > 1 else None)
        if len(set(sizes)) != 1:
            raise MaskError(f"sizes {sorted(set(sizes))[:4]}: there must be one size, and one mask at least.")
        return cls(sizes[0], tuple(float(t) for t in times_s), tuple(texts), object_id)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields of this class."""
        return {
            "object_id": self.object_id,
            "size": list(self.size),
            "times_s": list(self.times_s),
            "rles": list(self.rles),
        }

    @classmethod
    def from_json(cls, row: Any) -> MaskTrack:
        """The track of :meth:`to_json`. Raises :class:`MaskError` on unknown, missing or bad fields."""
        if not isinstance(row, Mapping):
            raise MaskError(f"a track must be an object with {', '.join(_FIELDS)}, not {row!r:.60}.")
        for name in row:
            if name not in _FIELDS:
                hint = did_you_mean(name, _FIELDS)
                raise MaskError(f"unknown field {name!r}; a track has {', '.join(_FIELDS)}.{hint}")
        for name in _FIELDS[1:]:
            if name not in row:
                raise MaskError(f"field {name!r} is missing; a track has {', '.join(_FIELDS)}.")
        return cls(row["size"], row["times_s"], row["rles"], row.get("object_id", ""))


def _second(value: Any, i: int) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_TIME_S:
        raise MaskError(f"times_s[{i}] ({value!r:.60}) must be a number of seconds, 0 to {MAX_TIME_S:.0f}.")
    return float(value)
