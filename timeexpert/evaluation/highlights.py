"""Highlight detection over 2-second clips (QVHighlights): mAP and HIT@1 as in moment_detr's evaluator.

Equal, unrounded, to the ``moment_detr`` reference (``standalone_eval/eval.py``, ``eval_highlight``; TimeChat, VTG-LLM
and TRACE ship the same code). A clip is positive for an annotator who scored it at least 2 (Fair), 3 (Good) or 4
(VeryGood); papers print VeryGood. Average precision is taken per query and annotator, then averaged; HIT@1 asks
whether any annotator finds the top clip positive. With several annotators the mAP of a perfect answer is below 100:
``map_truth_as_answer`` says what the annotators' own mean would score.

Conventions: ``strict``: clip i covers [2i, 2i+2) seconds, an answer that did not parse is a miss with AP 0.
``moment_detr`` and ``lighthouse``: missing queries are left out, two decimals. ``timechat`` and ``vtgllm``
(``utils/format_vhd.py``) read a time t as clip (t-1)/2, ``trace`` (``trace/eval/reformat_vhd.py``) as clip t/2-1:
perfect answers lose a third of their score. There times past the end are skipped, scores of one clip averaged, and
an answer that did not parse is a row of zeros, which earns the share of positives.
Not copied: a true clip past the end is an error with a name, not an IndexError; a time in the second after the last
clip, where TimeChat has an IndexError, is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .conventions import chosen, policies, rounded, share
from .errors import MISSING, EvaluationError, Missing, require_same_length
from .scores import Figures, Scores, answer_counts, item_names
from .tiou import answered_segments

CLIP_S = 2.0
LEVELS = {"fair": 2.0, "good": 3.0, "verygood": 4.0}
_MAX_CLIPS = 1_000_000
_CELLS_AT_ONCE = 1_000_000  # queries x clips x annotators x levels

Points = Sequence[tuple[float, float]]  # (time_s, score)


@dataclass(frozen=True)
class HighlightConvention:
    """How points become clip scores, and what happens to answers without points."""

    clip_of_time: Literal["t/2", "(t-1)/2", "t/2-1"] = "t/2"
    same_clip: Literal["max", "mean"] = "max"
    past_the_end: Literal["outside", "skip"] = "outside"
    top_clip: Literal["named", "any"] = "named"
    without_points: Literal["miss", "zeros"] = "miss"
    missing: Literal["miss", "drop"] = "miss"
    decimals: int | None = None


def _from_times(clip_of_time: Literal["(t-1)/2", "t/2-1"]) -> HighlightConvention:
    return HighlightConvention(clip_of_time, "mean", "skip", "any", "zeros", "drop", 2)


CONVENTIONS: Mapping[str, HighlightConvention] = {
    "strict": HighlightConvention(),
    "moment_detr": HighlightConvention(missing="drop", decimals=2),
    "lighthouse": HighlightConvention(missing="drop", decimals=2),
    "timechat": _from_times("(t-1)/2"),
    "vtgllm": _from_times("(t-1)/2"),
    "trace": _from_times("t/2-1"),
}


@dataclass(frozen=True, eq=False)
class HighlightTruth:
    """Saliency of every 2-s clip of one video for one query: ``scores`` is float64 [clips, annotators], 0 to 5.

    ``duration_s`` is the video's; ``None`` means that of the clips.
    """

    scores: NDArray[np.float64]
    duration_s: float | None = None

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
        for clip in clip_ids:
            if not 0 <= clip < clips:
                raise EvaluationError(
                    f"relevant_clip_ids holds {clip}, but a video of {duration_s} s has clips 0 to {clips - 1} of "
                    f"{CLIP_S:g} s. Correct the annotation or its duration."
                )
        if len(table):
            full[np.array(clip_ids, dtype=np.int64)] = table
        return cls(full, float(duration_s))

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
        return cls(full, float(duration_s))


def clip_points(clip_scores: ArrayLike) -> NDArray[np.float64]:
    """Points [clips, 2] of a score per clip, as moment_detr's ``pred_saliency_scores`` has them."""
    scores = np.asarray(clip_scores, dtype=np.float64)
    return np.column_stack([CLIP_S * np.arange(len(scores)), scores])


def highlight_detection(
    truth: Sequence[HighlightTruth],
    predictions: Sequence[Points | NDArray[np.float64] | Missing | None],
    *,
    items: Sequence[str] | None = None,
    convention: str = "strict",
) -> Scores:
    """Score predicted (time in seconds, score) points, each a claim about the 2-s clip that holds its time.

    ``predictions[i]`` is ``[]`` for an answer without points, ``None`` for one that did not parse, ``MISSING`` where
    there is none: all misses. Strict: a clip named twice keeps its highest score; a clip not named scores 0 in the
    AP; HIT@1 looks at the best named clip (the first of equals), and one past the end of the video is a miss.
    A point that is not two finite numbers says nothing.

    Figures in percent: ``map`` and ``hit1`` at VeryGood, the same for each level (``map_fair``, ...),
    ``map_truth_as_answer`` and ``hit1_truth_as_answer``. Counts beside the usual ones: ``count``, ``unparsed``,
    ``empty``, ``points_outside`` (past the end or before 0 s), ``points_invalid``.
    ``per_item``: ``ap`` (VeryGood, mean of annotators, in [0, 1]) and ``hit1``.
    """
    rules = chosen(CONVENTIONS, convention, "highlight detection")
    require_same_length(truth, predictions)
    columns = np.zeros((len(truth), 2 + 2 * len(LEVELS)))  # annotators, queries, sum of AP and hit of each level
    as_answer = np.zeros((len(truth), 4))
    outside = invalid = 0
    missing = np.array([p is MISSING for p in predictions], dtype=bool)
    for part, positive, padded in _parts(truth):
        annotators = np.array([truth[i].scores.shape[1] for i in part])
        clips = np.array([len(truth[i].scores) for i in part])
        ranked = _clip_scores([truth[i] for i in part], [predictions[i] for i in part], rules)
        ap, hit = _ap_and_hit(positive, clips, ranked.scores, ranked.top)
        ap[~ranked.counts], hit[~ranked.counts] = 0.0, 0.0
        mean = padded.sum(axis=2) / annotators[:, None]
        best = np.where(np.arange(mean.shape[1]) < clips[:, None], mean, -np.inf).argmax(axis=1)
        ap_truth, hit_truth = _ap_and_hit(positive[:, :, -1:], clips, mean, best)
        columns[part] = np.column_stack([annotators, np.ones(len(part)), ap, hit])
        as_answer[part] = np.column_stack([annotators, np.ones(len(part)), ap_truth, hit_truth])
        outside, invalid = outside + ranked.outside, invalid + ranked.invalid
    width = len(LEVELS)
    per_item = {
        "ap": columns[:, 1 + width] / np.maximum(columns[:, 0], 1),
        "hit1": columns[:, 1 + 2 * width],
    }
    if rules.missing == "drop":
        columns[missing] = 0.0

    def combine(sums: NDArray[np.float64]) -> Figures:
        maps, hits = (
            share(sums[..., 2 : 2 + width], sums[..., 0]),
            share(sums[..., 2 + width : 2 + 2 * width], sums[..., 1]),
        )
        figures: dict[str, NDArray[np.float64]] = {}
        for k, level in enumerate(LEVELS):
            figures |= {f"map_{level}": maps[..., k], f"hit1_{level}": hits[..., k]}
        figures |= {"map": maps[..., -1], "hit1": hits[..., -1]}
        figures["map_truth_as_answer"] = share(sums[..., -2], sums[..., -4])
        figures["hit1_truth_as_answer"] = share(sums[..., -1], sums[..., -3])
        return {name: rounded(value, rules.decimals) for name, value in figures.items()}

    told = answer_counts(predictions)
    return Scores(
        family="highlight_detection",
        items=item_names(items, len(truth)),
        statistics=np.concatenate([columns, as_answer], axis=1),
        combine=combine,
        counts={
            **told,
            "count": len(truth),
            "unparsed": len(truth) - told["parsed"],
            "empty": sum(p is not None and p is not MISSING and not len(p) for p in predictions),
            "points_outside": outside,
            "points_invalid": invalid,
        },
        per_item=per_item,
        convention=convention,
        policies=policies(rules),
    )


def clip_scores(
    truth: Sequence[HighlightTruth], predictions: Sequence[Any], convention: str = "strict"
) -> list[NDArray[np.float64]]:
    """The score of each clip of each video, as :func:`highlight_detection` reads the points; clips not named have 0."""
    rules = chosen(CONVENTIONS, convention, "highlight detection")
    scores = _clip_scores(truth, predictions, rules).scores
    return [row[: len(t.scores)] for row, t in zip(scores, truth, strict=True)]


def average_precision(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """AP of a ranking in [0, 1]: the mean, over the score levels that add positives, of the best precision there
    or further down. Clips with equal scores enter together. No positive gives 0, nothing but positives 1."""
    return float(_average_precisions(positive[None, :, None], np.array([len(scores)]), scores[None])[0, 0])


def _average_precisions(
    positive_QCK: NDArray[np.bool_], clips_Q: NDArray[np.int64], scores_QC: NDArray[np.float64]
) -> NDArray[np.float64]:
    """AP [Q, K] of ``scores`` against K labellings; clips from ``clips_Q`` on are padding."""
    place = np.arange(scores_QC.shape[1])
    key = np.where(place < clips_Q[:, None], -scores_QC, np.inf)
    order = np.argsort(key, axis=1, kind="stable")
    key = np.take_along_axis(key, order, axis=1)
    ends = np.ones(key.shape, dtype=bool)  # the last clip of a level of equal scores
    ends[:, :-1] = key[:, 1:] != key[:, :-1]
    ends &= place < clips_Q[:, None]
    before = np.maximum.accumulate(np.where(ends, place, -1), axis=1)
    before = np.concatenate([np.full((len(before), 1), -1), before[:, :-1]], axis=1)

    found = np.cumsum(np.take_along_axis(positive_QCK, order[..., None], axis=1), axis=1)
    found_before = np.where((before >= 0)[..., None], np.take_along_axis(found, np.maximum(before, 0)[..., None], 1), 0)
    adds = ends[..., None] & (found > found_before)
    precision = np.where(ends[..., None], found / (place + 1.0)[:, None], 0.0)
    best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (best_from_here * adds).sum(axis=1) / np.maximum(adds.sum(axis=1), 1)


def _ap_and_hit(
    positive_QCLA: NDArray[np.bool_],
    clips: NDArray[np.int64],
    scores: NDArray[np.float64],
    top: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AP summed over annotators and hit of the ``top`` clip (-1: none), each [queries, levels]."""
    queries, _, levels, annotators = positive_QCLA.shape
    flat = positive_QCLA.reshape(queries, -1, levels * annotators)
    ap = _average_precisions(flat, clips, scores).reshape(queries, levels, annotators).sum(axis=2)
    at_top = positive_QCLA[np.arange(queries), np.maximum(top, 0)].any(axis=2)
    return ap, (at_top & (top >= 0)[:, None]).astype(np.float64)


def _parts(
    truth: Sequence[HighlightTruth],
) -> Iterator[tuple[list[int], NDArray[np.bool_], NDArray[np.float64]]]:
    """Queries of like size together: places, positives [Q, clips, levels, annotators], scores (0 where padded)."""
    order = sorted(range(len(truth)), key=lambda i: truth[i].scores.shape)
    while order:
        clips = len(truth[order[-1]].scores)
        fit = max(1, _CELLS_AT_ONCE // (clips * len(LEVELS) * max(3, truth[order[-1]].scores.shape[1])))
        part = [i for i in order[-fit:] if 2 * len(truth[i].scores) >= clips]
        order = order[: len(order) - len(part)]
        annotators = max(truth[i].scores.shape[1] for i in part)
        padded = np.full((len(part), clips, annotators), np.nan)
        for k, i in enumerate(part):
            padded[k, : len(truth[i].scores), : truth[i].scores.shape[1]] = truth[i].scores
        positive = np.stack([padded >= minimum for minimum in LEVELS.values()], axis=2)
        yield part, positive, np.nan_to_num(padded)


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Scores [queries, clips], the top clip of each query (-1: outside), which queries have any say, and counts."""

    scores: NDArray[np.float64]
    top: NDArray[np.int64]
    counts: NDArray[np.bool_]
    outside: int
    invalid: int


def _clip_scores(truth: Sequence[HighlightTruth], predictions: Sequence[Any], rules: HighlightConvention) -> _Ranked:
    clips = np.array([len(t.scores) for t in truth], dtype=np.int64)
    duration_s = np.array([len(t.scores) * CLIP_S if t.duration_s is None else t.duration_s for t in truth])
    told = [
        answered_segments(p) if p is not None and p is not MISSING and len(p) else np.zeros((0, 2)) for p in predictions
    ]
    owner = np.repeat(np.arange(len(told)), [len(points) for points in told])
    points = np.concatenate([*told, np.zeros((0, 2))])
    finite = np.isfinite(points).all(axis=1)
    invalid = int((~finite).sum())
    points, owner = points[finite], owner[finite]
    time_s, score = points.T
    if rules.clip_of_time == "t/2":
        clip = np.floor(time_s / CLIP_S)
    elif rules.clip_of_time == "(t-1)/2":
        clip = np.maximum(np.trunc((time_s - 1) / CLIP_S), 0)
    else:
        clip = np.maximum(np.trunc(time_s / CLIP_S) - 1, 0)
    inside = (clip >= 0) & (clip < clips[owner])
    if rules.past_the_end == "skip":
        inside &= time_s <= duration_s[owner]
    at = (owner[inside], clip[inside].astype(np.int64))
    named = np.full((len(told), int(clips.max(initial=0))), -np.inf)
    if rules.same_clip == "max":
        np.maximum.at(named, at, score[inside])
    else:
        sums, times = np.zeros(named.shape), np.zeros(named.shape)
        with np.errstate(over="ignore"):
            np.add.at(sums, at, score[inside])
        np.add.at(times, at, 1)
        named[times > 0] = np.nan_to_num(sums[times > 0] / times[times > 0])
    scores = np.where(np.isfinite(named), named, 0.0)
    top = named.argmax(axis=1) if named.size else np.zeros(len(told), dtype=np.int64)
    if rules.top_clip == "any":
        top = np.where(np.arange(named.shape[1]) < clips[:, None], scores, -np.inf).argmax(axis=1)
    else:
        best = named.max(axis=1, initial=-np.inf)
        after, ahead = (np.full(len(told), -np.inf) for _ in range(2))
        beyond = ~inside & (clip >= 0)
        np.maximum.at(after, owner[beyond], score[beyond])
        np.maximum.at(ahead, owner[clip < 0], score[clip < 0])
        top = np.where((best >= after) & (best > ahead) & np.isfinite(best), top, -1)
    counts = np.bincount(owner, minlength=len(told)) > 0
    if rules.without_points == "zeros":
        counts = np.ones(len(told), dtype=bool)
    return _Ranked(scores, top, counts, int((~inside).sum()), invalid)


def _checked_duration(duration_s: float) -> float:
    if not isfinite(duration_s) or not 0 < duration_s <= _MAX_CLIPS * CLIP_S:
        raise EvaluationError(f"duration_s ({duration_s!r}) must be positive and at most {_MAX_CLIPS * CLIP_S:g} s.")
    return float(duration_s)
