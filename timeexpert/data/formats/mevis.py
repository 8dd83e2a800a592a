"""MeViS (Ding et al., ICCV 2023): ``meta_expressions.json`` beside ``mask_dict.json``, run-length masks by annotation.

An expression is about the objects of its ``anno_id``: their union is one track. The rate of the frames is not
published; 6 per second is that of the 79 frames and 13 seconds which an average video has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timeexpert.data.formats.base import Drafts, Format, RowError, list_of
from timeexpert.data.formats.expressions import expression_drafts, matches, video_rows
from timeexpert.data.formats.reading import FormatError, Row, check_file, streamed
from timeexpert.data.mask_rle import MaskError
from timeexpert.data.mask_tracks import MaskTrack

FRAME_RATE = 6.0
MASKS = "mask_dict.json"


@dataclass
class MaskDict:
    """``{annotation: [mask of each frame, or null]}``, read when first asked for; it takes the memory of its texts."""

    path: Path
    _masks: dict[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> Any:
        """The masks of the annotation ``name``. Raises :class:`MaskError` where there are none."""
        if not self._masks:
            self._masks = dict(streamed(self.path))
        if name not in self._masks:
            raise MaskError(f"{self.path} has no masks of the annotation {name!r}. Are the files of one split?")
        return self._masks[name]


def expression_rows(path: Path) -> Iterator[Row]:
    """A row per video; beside it the masks of its split. Raises :class:`FormatError`."""
    check_file(path)
    masks = path.parent / MASKS
    if not masks.is_file():
        raise FormatError(
            f"{path}: its masks are not in {masks}. Put the file there. Splits without published masks cannot be "
            "converted."
        )
    yield from video_rows(path, MaskDict(masks))


def named_objects(row: Row, expression: dict[str, Any], frames: Sequence[str]) -> Callable[[float], list[MaskTrack]]:
    """What reads the union of an expression's objects. Raises :class:`RowError` where it names none."""
    if "anno_id" not in expression:
        raise RowError("no_label", "the expression names no masks (anno_id), like those of splits without answers.")
    ids = [str(name) for name in list_of(expression["anno_id"], "anno_id")]
    if not ids:
        raise RowError("no_target", "the expression is about no object (anno_id is empty): nothing to segment.")

    def tracks(frame_rate: float) -> list[MaskTrack]:
        shown = [_frames(row.beside.of(name), name, len(frames)) for name in ids]
        there = [[masks[i] for masks in shown if masks[i] is not None] for i in range(len(frames))]
        return [MaskTrack.from_rles(there, [i / frame_rate for i in range(len(frames))], "+".join(ids))]

    return tracks


def _frames(masks: Any, name: str, count: int) -> list[Any]:
    if not isinstance(masks, list) or len(masks) != count:
        has = len(masks) if isinstance(masks, list) else repr(masks)[:60]
        raise MaskError(
            f"{MASKS}: annotation {name!r} has {has} masks for {count} frames; one per frame is due, or null."
        )
    return masks


def _drafts(row: Row) -> Drafts:
    yield from expression_drafts(row, named_objects, FRAME_RATE)


def _matches(first: Any) -> bool:
    return matches(first, "anno_id")


FORMAT = Format(
    "mevis",
    "MeViS: meta_expressions.json with mask_dict.json; masks of the objects of an expression, united",
    expression_rows,
    _matches,
    _drafts,
)
