"""LoomBench's questions and answers as lines of JSON.

A question: ``{"id", "kind": "when" | "where" | "combined", "segment_s": [start, end]}``; *where* and *combined* also
have ``frame_times_s`` (seconds of each frame) and ``masks``, a COCO run-length mask per frame, ``null`` where the
object is not seen. An answer: ``{"id", "segment_s", "masks"}``, each where its kind asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
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
            masks = _masks(row.value.get("masks"), len(times), where)
        if not isinstance(segment, list) or len(segment) != 2 or not all(type(t) in (int, float) for t in segment):
            raise EvaluationError(f"{where}: segment_s ({segment!r}) must be a list of two numbers of seconds.")
        questions[name] = LoomQuestion(kind, (float(segment[0]), float(segment[1])), masks, times)
    if not questions:
        raise EvaluationError(f"{path}: holds no question. Give lines with id, kind and segment_s.")
    return questions


def read_answers(path: Path, questions: Mapping[str, LoomQuestion]) -> dict[str, LoomAnswer | None]:
    """Answers by id, the first of each; ``None`` where the row, or its masks, could not be read. A row without an id
    names no question and is left out."""
    answers: dict[str, LoomAnswer | None] = {}
    for row in json_lines(path):
        name = _id(row)
        if name is None or name in answers:
            continue
        question = questions.get(name)
        masks = row.value.get("masks")
        if masks is not None and question is not None and question.masks is not None:
            try:
                masks = _masks(masks, len(question.masks), path, question.masks.shape[1:])
            except EvaluationError:  # counted as an answer that did not parse
                answers[name] = None
                continue
        answers[name] = LoomAnswer(row.value.get("segment_s"), masks)
    return answers


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


def _masks(value: Any, num_frames: int, where: object, size: tuple[int, ...] | None = None) -> NDArray[np.bool_]:
    """Masks [T, H, W]; their size is that of the first frame that has one, unless ``size`` is given."""
    if not isinstance(value, list):
        raise EvaluationError(f"{where}: masks must be a list with a run-length mask, or null, per frame.")
    if size is None:
        shown = next((frame for frame in value if frame is not None), None)
        if shown is None:
            raise EvaluationError(f"{where}: masks are null in every frame; a question needs a frame with its object.")
    try:
        rows, columns = size or mask_size(shown)
        return decode_masklet(value, size=(rows, columns), num_frames=num_frames)
    except MaskError as error:
        raise EvaluationError(f"{where}: masks: {error}") from None
