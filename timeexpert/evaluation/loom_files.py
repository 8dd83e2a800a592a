"""LoomBench's questions and answers as lines of JSON.

A question: ``{"id", "kind": "when" | "where" | "combined", "segment_s": [start, end]}``; *where* and *combined* also
have ``frame_times_s`` (seconds of each frame) and ``masks``, a COCO run-length mask per frame, ``null`` where the
object is not seen. An answer: ``{"id", "segment_s", "masks"}``, each where its kind asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timeexpert.data.formats.reading import Row, json_lines
from timeexpert.data.mask_rle import MaskError, decode_masklet, mask_size

from .errors import EvaluationError
from .loombench import KINDS, LoomAnswer, LoomQuestion


def read_questions(path: Path) -> dict[str, LoomQuestion]:
    """Questions by id. Raises :class:`EvaluationError` naming the line that is none, and on an id that repeats."""
    questions: dict[str, LoomQuestion] = {}
    first: dict[str, str] = {}
    for row in json_lines(path):
        where = path.parent / row.where
        name = _id(row)
        if name is None:
            problem = row.problem.rstrip(".") or "a question must be an object with a string id"
            raise EvaluationError(f"{where}: {problem}. Correct the row.")
        if first.setdefault(name, row.where) != row.where:
            raise EvaluationError(f"{where}: id {name!r} stands in {first[name]} already. Give every question its own.")
        kind, segment = row.value.get("kind"), row.value.get("segment_s")
        if kind not in KINDS:
            raise EvaluationError(f"{where}: kind ({kind!r}) must be one of {', '.join(KINDS)}.")
        masks = times = None
        if kind != "when":
            times = _times(row.value.get("frame_times_s"), where)
            _masks(row.value.get("masks"), len(times), where)  # now an error says where it stands
            masks = partial(_masks, row.value.get("masks"), len(times), where)
        if not isinstance(segment, list) or len(segment) != 2 or not all(type(t) in (int, float) for t in segment):
            raise EvaluationError(f"{where}: segment_s ({segment!r}) must be a list of two numbers of seconds.")
        questions[name] = LoomQuestion(kind, (float(segment[0]), float(segment[1])), masks, times)
    if not questions:
        raise EvaluationError(f"{path}: holds no question. Give lines with id, kind and segment_s.")
    return questions


@dataclass(frozen=True)
class LoomAnswers:
    """The answers of one file by id, the first of each. ``bad_rows``: places that name no question, and why;
    ``repeated``: how many answers name a question that had one."""

    by_id: dict[str, LoomAnswer | None]
    bad_rows: list[str]
    repeated: int


def read_answers(path: Path) -> LoomAnswers:
    """Every row of a file of answers. Masks are decoded when they are scored; those that cannot be count as an answer
    that did not parse."""
    answers: dict[str, LoomAnswer | None] = {}
    bad: list[str] = []
    repeated = 0
    for row in json_lines(path):
        name = _id(row)
        if name is None:
            bad.append(f"{row.where}: {row.problem.rstrip('.') or 'no object with a string id'}")
        elif name in answers:
            repeated += 1
        else:
            masks = row.value.get("masks")
            told = None if masks is None else partial(_told_masks, masks)
            answers[name] = LoomAnswer(row.value.get("segment_s"), told)
    return LoomAnswers(answers, bad, repeated)


def is_questions(path: Path) -> bool:
    """Whether ``path`` is a file of LoomBench's rows, and not of samples: told by the first row that is an object."""
    if not path.is_file():
        return False
    row = next((row.value for row in json_lines(path) if not row.problem and isinstance(row.value, dict)), {})
    return not {"task", "prompt", "events"} <= row.keys()


def _id(row: Row) -> str | None:
    value = row.value
    return value["id"] if not row.problem and isinstance(value, dict) and isinstance(value.get("id"), str) else None


def _times(value: Any, where: object) -> NDArray[np.float64]:
    try:
        times = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        times = np.zeros(0)
    if times.ndim != 1 or not len(times):
        raise EvaluationError(f"{where}: frame_times_s must be a list of seconds, one per frame.")
    return times


def _masks(value: Any, num_frames: int, where: object) -> NDArray[np.bool_]:
    """Masks [T, H, W]; their size is that of the first frame that has one."""
    if not isinstance(value, list):
        raise EvaluationError(f"{where}: masks must be a list with a run-length mask, or null, per frame.")
    shown = next((frame for frame in value if frame is not None), None)
    if shown is None:
        raise EvaluationError(f"{where}: masks are null in every frame; a question needs a frame with its object.")
    try:
        return decode_masklet(value, size=mask_size(shown), num_frames=num_frames)
    except MaskError as error:
        raise EvaluationError(f"{where}: masks: {error}") from None


def _told_masks(value: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks [T, H, W] of an answer, of ``size`` (H, W). Raises :class:`MaskError`."""
    if not isinstance(value, list):
        raise MaskError("masks must be a list with a run-length mask, or null, per frame.")
    return decode_masklet(value, size=size, num_frames=len(value))
