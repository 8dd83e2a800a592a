"""Highlight detection over 2-second clips: mAP and HIT@1 as in moment_detr's evaluator.

Equal to the ``moment_detr`` reference (``standalone_eval/eval.py``, ``eval_highlight``; TimeChat, VTG-LLM and
TRACE ship the same code), unrounded. A clip is positive for an annotator who scored it at least 2 (Fair),
3 (Good) or 4 (VeryGood); papers print VeryGood. Average precision is taken per query and annotator, then
averaged; HIT@1 asks whether any annotator finds the top clip positive. With several annotators the mAP of a
perfect answer is below 100: ``map_truth_as_answer`` says what the annotators' own mean would score.

Not copied: TimeChat and TRACE read a time t as clip (t-1)/2 or t/2-1, which loses a third of the score of a
perfect answer; here clip i covers [2i, 2i+2) seconds. An answer that did not parse is a miss with AP 0, not a
row of zeros that earns the share of positives. A true clip past the end is an error with a name, not an
IndexError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import EvaluationError, require_same_length

CLIP_S = 2.0
LEVELS = {"fair": 2.0, "good": 3.0, "verygood": 4.0}
_MAX_CLIPS = 1_000_000


@dataclass(frozen=True, eq=False)
class HighlightTruth:
    """Saliency of every 2-s clip of one video for one query: ``scores`` is float64 [clips, annotators], 0 to 5."""

    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, dtype=np.float64)
        if scores.ndim != 2 or 0 in scores.shape or not np.isfinite(scores).all():
            raise EvaluationError(f"highlight scores of shape {scores.shape} must be finite and [clips, annotators].")
        object.__setattr__(self, "scores", scores)

    @classmethod
    def from_annotations(cls, clip_ids: Sequence[int], scores: ArrayLike, duration_s: float) -> HighlightTruth:
        """QVHighlights' ``relevant_clip_ids`` and ``saliency_scores`` [ids, annotators]; other clips score 0.

        As in the reference a last clip shorter than 2 s does not count. Raises :class:`EvaluationError`.
        """
        clips = int(_checked_duration(duration_s) // CLIP_S)
        table = np.asarray(scores, dtype=np.float64)
        if table.ndim != 2 or len(table) != len(clip_ids):
            raise EvaluationError(
                f"saliency_scores of shape {table.shape} must have one row of annotators for each of the "
                f"{len(clip_ids)} relevant_clip_ids."
            )
        full = np.zeros((clips, table.shape[1]))
        for clip, row in zip(clip_ids, table, strict=True):
            if not 0 <= clip < clips:
                raise EvaluationError(
                    f"relevant_clip_ids holds {clip}, but a video of {duration_s} s has clips 0 to {clips - 1} of "
                    f"{CLIP_S:g} s. Correct the annotation or its duration."
                )
            full[clip] = row
        return cls(full)

    @classmethod
    def from_points(cls, points: Sequence[tuple[float, float]], duration_s: float) -> HighlightTruth:
        """One annotator's (time in seconds, score) points; other clips score 0. A last short clip counts."""
        clips = ceil(_checked_duration(duration_s) / CLIP_S)
        full = np.zeros((clips, 1))
        for time_s, score in points:
            clip = int(time_s // CLIP_S)
            if not 0 <= clip <= clips:
                raise EvaluationError(f"a highlight at {time_s} s is outside the video of {duration_s} s.")
            clip = min(clip, clips - 1)  # a point at the very end belongs to the last clip
            full[clip, 0] = max(full[clip, 0], score)
        return cls(full)


def highlight_detection(
    truth: Sequence[HighlightTruth], predictions: Sequence[Sequence[tuple[float, float]] | None]
) -> dict[str, Any]:
    """Score predicted (time in seconds, score) points, each a claim about the 2-s clip that holds its time.

    A clip named twice keeps its highest score. As in the reference a clip not named scores 0 in the AP, and
    HIT@1 looks at the best named clip (the first of equals): one past the end of the video is a miss.
    ``None`` (did not parse) and ``[]`` (no points) count as misses.

    Returns percent figures ``map`` and ``hit1`` at VeryGood, the same for each level (``map_fair``, ...),
    ``map_truth_as_answer`` and ``hit1_truth_as_answer``, and the counts ``count``, ``unparsed``, ``empty``,
    ``points_outside``. Figures are ``None`` without queries.
    """
    require_same_length(truth, predictions)
    figures: dict[str, Any] = {}
    answers = [_answer(t, p) if p else None for t, p in zip(truth, predictions, strict=True)]
    means = [t.scores.mean(axis=1) for t in truth]
    perfect = [_Answer(mean, int(mean.argmax()), 0) for mean in means]
    for level, minimum in LEVELS.items():
        figures[f"map_{level}"], figures[f"hit1_{level}"] = _map_and_hit1(truth, answers, minimum)
    top = LEVELS["verygood"]
    figures["map"], figures["hit1"] = figures["map_verygood"], figures["hit1_verygood"]
    figures["map_truth_as_answer"], figures["hit1_truth_as_answer"] = _map_and_hit1(truth, perfect, top)
    return figures | {
        "count": len(truth),
        "unparsed": sum(p is None for p in predictions),
        "empty": sum(p is not None and not p for p in predictions),
        "points_outside": sum(answer.outside for answer in answers if answer is not None),
    }


def average_precision(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """AP of a ranking in [0, 1]: the mean, over the score levels that add positives, of the best precision there
    or further down. Clips with equal scores enter together. No positive gives 0, nothing but positives 1."""
    if not positive.any():
        return 0.0
    if positive.all():
        return 1.0
    order = np.argsort(-scores, kind="stable")
    last_of_level = np.append(np.diff(scores[order]) != 0, True)
    found = np.cumsum(positive[order])[last_of_level]
    precision = found / (np.flatnonzero(last_of_level) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[np.diff(found, prepend=0) > 0].mean())


@dataclass(frozen=True, eq=False)
class _Answer:
    """What a query's points say: a score per clip, the clip ranked first (it may lie outside), points outside."""

    scores: NDArray[np.float64]
    top_clip: int
    outside: int


def _answer(truth: HighlightTruth, points: Sequence[tuple[float, float]]) -> _Answer:
    clips = len(truth.scores)
    named: dict[int, float] = {}
    outside = 0
    for time_s, score in points:
        if not (isfinite(time_s) and isfinite(score)):
            raise EvaluationError(f"a predicted highlight ({time_s!r}, {score!r}) must be two finite numbers.")
        clip = int(time_s // CLIP_S)
        named[clip] = max(score, named.get(clip, score))
        outside += not 0 <= clip < clips
    scores = np.zeros(clips)
    for clip, score in named.items():
        if 0 <= clip < clips:
            scores[clip] = score
    return _Answer(scores, max(named, key=lambda clip: (named[clip], -clip)), outside)


def _map_and_hit1(
    truth: Sequence[HighlightTruth], answers: Sequence[_Answer | None], minimum: float
) -> tuple[float | None, float | None]:
    if not truth:
        return None, None
    aps: list[float] = []
    hits: list[bool] = []
    for t, answer in zip(truth, answers, strict=True):
        positive = t.scores >= minimum
        if answer is None:
            aps += [0.0] * positive.shape[1]
            hits.append(False)
            continue
        aps += [average_precision(column, answer.scores) for column in positive.T]
        top = answer.top_clip
        hits.append(0 <= top < len(positive) and bool(positive[top].any()))
    return 100.0 * float(np.mean(aps)), 100.0 * float(np.mean(hits))


def _checked_duration(duration_s: float) -> float:
    if not isfinite(duration_s) or not 0 < duration_s <= _MAX_CLIPS * CLIP_S:
        raise EvaluationError(f"duration_s ({duration_s!r}) must be positive and at most {_MAX_CLIPS * CLIP_S:g} s.")
    return float(duration_s)
