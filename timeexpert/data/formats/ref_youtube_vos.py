"""Refer-YouTube-VOS (Seo et al., ECCV 2020): ``meta_expressions.json`` of a split, with palette PNGs per frame.

The published layout is ``meta_expressions/train/meta_expressions.json`` beside ``train/Annotations/VIDEO/FRAME.png``.
Every fifth frame of 30 per second is published: 6 per second. An object is where the label map holds its ``obj_id``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from timeexpert.data.formats.base import Drafts, Format, RowError
from timeexpert.data.formats.expressions import expression_drafts, matches, video_rows
from timeexpert.data.formats.reading import FormatError, Row, check_file
from timeexpert.data.label_maps import LabelMaps
from timeexpert.data.mask_tracks import MaskTrack

FRAME_RATE = 6.0
MAX_LABEL = 254  # 255 marks pixels that are not judged


def labelled_rows(path: Path) -> Iterator[Row]:
    """A row per video; beside it the label maps of its split. Raises :class:`FormatError`."""
    check_file(path)
    folders = [path.parent / "Annotations", path.absolute().parents[2] / path.absolute().parent.name / "Annotations"]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise FormatError(
            f"{path}: its masks are in neither {folders[0]} nor {folders[1]}, where VIDEO/FRAME.png is looked for. Put "
            "or link the folder Annotations there. Splits without published masks cannot be converted."
        )
    yield from video_rows(path, LabelMaps(found))


def labelled_object(row: Row, expression: dict[str, Any], frames: Sequence[str]) -> Callable[[float], list[MaskTrack]]:
    """What reads the masks of an expression's object. Raises :class:`RowError` where it names none."""
    if "obj_id" not in expression:
        raise RowError("no_label", "the expression names no object (obj_id), like those of splits without answers.")
    label = expression["obj_id"]
    if isinstance(label, bool) or not str(label).isdecimal() or not 1 <= int(label) <= MAX_LABEL:
        raise RowError("malformed", f"obj_id ({label!r:.60}) must be a number from 1 to {MAX_LABEL}.")

    def tracks(frame_rate: float) -> list[MaskTrack]:
        masks = row.beside.masks(row.key, frames, int(label))
        return [MaskTrack.from_masks(masks, [i / frame_rate for i in range(len(frames))], str(label))]

    return tracks


def _drafts(row: Row) -> Drafts:
    yield from expression_drafts(row, labelled_object, FRAME_RATE)


def _matches(first: Any) -> bool:
    return matches(first, "obj_id")


FORMAT = Format(
    "ref_youtube_vos",
    "Refer-YouTube-VOS: meta_expressions.json with Annotations/VIDEO/FRAME.png; masks of an object per expression",
    labelled_rows,
    _matches,
    _drafts,
)
