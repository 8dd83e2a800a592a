"""Expressions about objects of videos that are folders of frames, as Refer-YouTube-VOS has them and others after it:
``{"videos": {id: {"expressions": {id: {"exp", "obj_id"}}, "frames": [names]}}}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from timeexpert.data.formats.base import Draft, Drafts, Fault, RawEvent, RowError, fields_of, list_of, text_of
from timeexpert.data.formats.masks import MaskSource
from timeexpert.data.formats.reading import FormatError, Row, load_json, members
from timeexpert.data.mask_tracks import MaskTrack

# (the row, an expression, the row's frames) -> what reads the tracks of the expression, given frames per second
Reader = Callable[[Row, dict[str, Any], Sequence[str]], Callable[[float], Sequence[MaskTrack]]]


def video_rows(path: Path, beside: Any) -> Iterator[Row]:
    """A row per video, with ``beside``. Raises :class:`FormatError`."""
    tree = load_json(path)
    if not isinstance(tree, dict) or "videos" not in tree:
        raise FormatError(f"{path}: must be an object with 'videos', as meta_expressions.json is.")
    for row in members(path, tree["videos"], "['videos']"):
        yield Row(row.where, row.key, row.value, row.problem, beside)


def expression_drafts(row: Row, reader: Reader, frame_rate: float) -> Drafts:
    """A referring segmentation per expression, over the whole video."""
    value = fields_of(row.value, "expressions", "frames")
    frames = sorted(text_of(name, f"frames[{i}]") for i, name in enumerate(list_of(value["frames"], "frames")))
    if not frames:
        raise RowError("no_label", "frames is empty: a video needs one frame at least.")
    for number, expression in fields_of(value["expressions"]).items():
        at = f"['expressions'][{number!r}]"
        try:
            query = text_of(fields_of(expression, "exp")["exp"], "exp")
            yield Draft(
                key=f"{row.key}:{number}",
                video=row.key,
                video_is_id=True,
                task="referring_segmentation",
                query=query,
                events=[RawEvent((), (), query)],
                at=at,
                meta={"expression": number},
                masks=MaskSource(reader(row, expression, frames), len(frames), frame_rate),
            )
        except RowError as error:
            yield Fault(at, error)


def matches(first: Any, field: str) -> bool:
    """Whether the first record of a file is that of expressions of which each has ``field``."""
    videos = first.get("videos") if isinstance(first, dict) else None
    video = next(iter(videos.values()), None) if isinstance(videos, dict) else None
    expressions = video.get("expressions") if isinstance(video, dict) else None
    expression = next(iter(expressions.values()), None) if isinstance(expressions, dict) else None
    return isinstance(expression, dict) and {"exp", field} <= set(expression)
