"""Rewards of answers that name segments of a video: their form, their match with the true segments, named timestamps.

MUSEG (``src/train.py``: ``reward_format``, ``reward_global_matching``, ``reward_local_matching``) defines them for
answers ``<think>...</think><answer>a-b c-d</answer>``. A reward reads a :class:`SegmentAnswer`, which text and events
both become, so one function serves every family of models. ``compat`` repeats what that file computes. ``strict``, the
default, closes ways to earn without knowing (docs/rl.md has the table):

- the true segments are merged before they are measured, so that no answer earns more than 1;
- an answer without segments has no form: 0.2 instead of 1;
- an item of the answer is two finite numbers, the first below the second, not two or more of which the first two
  count;
- times are compared as numbers, not as regular expressions, and a thinking that lists more than ten numbers for each
  boundary of the answer has named none of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .assignment import assign
from .conventions import chosen
from .tiou import Segment, iou_of

NOT_ITEMS, NOT_NAMED = 0.2, 0.6  # format: items that are no segments; times that the thinking does not name
MOST_MENTIONS = 10  # of one boundary in the thinking
_DUMMY = (1e9, 1e9 + 1)  # what the shorter list is padded with
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_WHOLE = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class RewardConvention:
    """How segments are compared and read.

    ``overlap``: global matching is F1 (MUSEG's code) or intersection over union (its paper). ``local``: the i-th
    segment against the i-th true one, or the one-to-one assignment of the largest total. ``epsilon_s`` is added to
    every denominator of the global matching.
    """

    overlap: Literal["f1", "iou"] = "f1"
    local: Literal["sequential", "optimal"] = "sequential"
    merge_truth: bool = True
    empty_form: float = NOT_ITEMS
    exact_items: bool = True
    exact_times: bool = True
    paid_padding: bool = False
    epsilon_s: float = 0.0


CONVENTIONS: Mapping[str, RewardConvention] = {
    "strict": RewardConvention(),
    "compat": RewardConvention(
        merge_truth=False, empty_form=1.0, exact_items=False, exact_times=False, paid_padding=True, epsilon_s=1e-6
    ),
}


@dataclass(frozen=True)
class SegmentAnswer:
    """An answer as rewards read it.

    ``form``: 0 where it is not an answer at all, 0.2 where its items are no segments, else 1. ``segments_s``: (start,
    end) in seconds as written; ``None`` where they could not be read. ``thinking``: the text before the answer,
    ``None`` where the family of models writes none.
    """

    form: float
    segments_s: tuple[Segment, ...] | None
    thinking: str | None = None


def answer_of_text(text: str, convention: RewardConvention) -> SegmentAnswer:
    """Read ``<think>...</think><answer>a-b c-d</answer>``; segments also from a text that is not of the whole form."""
    whole = _WHOLE.fullmatch(text) if all(text.count(tag) == 1 for tag in _TAGS) else None
    answers = _ANSWER.findall(text)
    segments = _items(answers[0], convention) if len(answers) == 1 else None
    if whole is None:
        return SegmentAnswer(0.0, segments)
    return SegmentAnswer(_form(segments, convention), segments, whole[1])


def answer_of_events(segments_s: Sequence[Segment] | None, parsed: bool, convention: RewardConvention) -> SegmentAnswer:
    """The answer of a family that writes events. ``parsed``: whether all of the answer could be read; ``segments_s`` is
    None where an event has no times, so that it is no segment."""
    if not parsed:
        return SegmentAnswer(0.0, None)
    return SegmentAnswer(_form(segments_s, convention), None if segments_s is None else tuple(segments_s))


def _form(segments_s: Sequence[Segment] | None, convention: RewardConvention) -> float:
    if segments_s is None or (convention.exact_items and not all(0 <= a < b for a, b in segments_s)):
        return NOT_ITEMS
    return 1.0 if segments_s else convention.empty_form


def _items(text: str, convention: RewardConvention) -> tuple[Segment, ...] | None:
    found: list[Segment] = []
    for item in text.split():
        parts = item.split("-")
        if convention.exact_items and len(parts) != 2:
            return None
        try:
            start_s, end_s = float(parts[0]), float(parts[1])
        except (ValueError, IndexError):
            return None
        if convention.exact_items and not (isfinite(start_s) and isfinite(end_s)):
            return None
        found.append((start_s, end_s))
    return tuple(found)


def format_reward(answer: SegmentAnswer, truth: Sequence[Segment], convention: RewardConvention) -> float:
    """0, 0.2 or 1: ``format_n_timestamp`` of MUSEG, its phase 2."""
    return answer.form


def format_timestamps(answer: SegmentAnswer, truth: Sequence[Segment], convention: RewardConvention) -> float:
    """0, 0.2, 0.6 or 1: the form, and 0.6 at most where the thinking does not name the answer's times (phase 1)."""
    if answer.form < 1.0:
        return answer.form
    return 1.0 if names_times(answer, convention) else NOT_NAMED


def timestamps(answer: SegmentAnswer, truth: Sequence[Segment], convention: RewardConvention) -> float:
    """1 where the thinking names every boundary of the answer, else 0; the part of :func:`format_timestamps` alone."""
    return float(bool(answer.segments_s) and answer.form == 1.0 and names_times(answer, convention))


def names_times(answer: SegmentAnswer, convention: RewardConvention) -> bool:
    """Whether each boundary stands in the thinking, once to ten times. Raises :class:`ValueError` without thinking."""
    if answer.thinking is None:
        raise ValueError("timestamps are read from an answer's thinking, and this family of models writes none.")
    boundaries = [time_s for segment in answer.segments_s or () for time_s in segment]
    if not convention.exact_times:
        found = [len(re.findall(str(time_s), answer.thinking)) for time_s in boundaries]
        return all(1 <= count <= MOST_MENTIONS for count in found)
    named = Counter(float(number) for number in _NUMBER.findall(answer.thinking))
    if named.total() > MOST_MENTIONS * len(boundaries):
        return not boundaries
    return all(1 <= named[time_s] <= MOST_MENTIONS for time_s in boundaries)


def global_matching(answer: SegmentAnswer, truth: Sequence[Segment], convention: RewardConvention) -> float:
    """How much of the true time is told and how much of the told time is true, in [0, 1].

    F1 of the two shares of seconds, or intersection over union. Told segments that touch or overlap count once; one
    segment that is not ``0 <= start < end < infinity`` voids the answer.
    """
    told = _valid(answer)
    if told is None:
        return 0.0
    told, true = merged(told), np.array(truth, dtype=np.float64).reshape(-1, 2)
    true = merged(true) if convention.merge_truth else true
    overlap_s = float(_intersections(told, true).sum())
    told_s, true_s = (float((s[:, 1] - s[:, 0]).sum()) for s in (told, true))
    if convention.overlap == "iou":
        return _over(overlap_s, told_s + true_s - overlap_s, convention.epsilon_s)
    precision, recall = (_over(overlap_s, whole_s, convention.epsilon_s) for whole_s in (told_s, true_s))
    return _over(2 * precision * recall, precision + recall, convention.epsilon_s)


def local_matching(answer: SegmentAnswer, truth: Sequence[Segment], convention: RewardConvention) -> float:
    """Mean of (1 + GIoU) / 2 over pairs of a told and a true segment, in [0, 1].

    The shorter list is padded with a segment at a thousand million seconds, so what has no partner earns nothing.
    Disjoint neighbours earn less than a half, the less the further they are apart. Voided as :func:`global_matching`;
    an answer without segments earns what padding does.
    """
    told = _valid(answer, may_be_empty=True)
    if told is None or not len(truth):
        return 0.0
    true = np.array(truth, dtype=np.float64).reshape(-1, 2)
    size = max(len(told), len(true))
    if convention.local == "optimal":
        rows, columns = assign(_closeness(told[:, None], true[None])) if len(told) else ([], [])
        return float(_closeness(told[rows], true[columns]).sum()) / size
    pair = min(len(told), len(true))
    total = float(_closeness(told[:pair], true[:pair]).sum())
    longer = told if len(told) > pair else true
    if convention.paid_padding:  # what the code pays for padding: some 1e-9 each
        total += float(_closeness(longer[pair:], np.array(_DUMMY)).sum())
    return total / size


def segment_matching(answer: SegmentAnswer, truth: Sequence[Segment], convention: RewardConvention) -> float:
    """:func:`global_matching` plus :func:`local_matching`, in [0, 2]."""
    return global_matching(answer, truth, convention) + local_matching(answer, truth, convention)


Reward = Callable[[SegmentAnswer, Sequence[Segment], RewardConvention], float]
REWARDS: Mapping[str, Reward] = {
    "format": format_reward,
    "format_timestamps": format_timestamps,
    "timestamps": timestamps,
    "global_matching": global_matching,
    "local_matching": local_matching,
    "segment_matching": segment_matching,
}
NEEDS_THINKING = ("format_timestamps", "timestamps")


def reward_convention(name: str, **changes: Any) -> RewardConvention:
    """The switches of ``strict`` or ``compat``, some of them changed. Raises ``EvaluationError`` for another name."""
    return replace(chosen(CONVENTIONS, name, "segment rewards"), **changes)


def merged(segments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Segments [n, 2] in order of time, those that touch or overlap as one; [m, 2]."""
    if not len(segments):
        return segments
    segments = segments[np.lexsort((segments[:, 1], segments[:, 0]))]
    reached = np.maximum.accumulate(segments[:, 1])
    first = np.r_[True, segments[1:, 0] > reached[:-1]]
    last = np.r_[np.flatnonzero(first)[1:] - 1, len(segments) - 1]
    return np.stack([segments[first, 0], reached[last]], axis=1)


def _valid(answer: SegmentAnswer, *, may_be_empty: bool = False) -> NDArray[np.float64] | None:
    if answer.segments_s is None or not (answer.segments_s or may_be_empty):
        return None
    told = np.array(answer.segments_s, dtype=np.float64).reshape(-1, 2)
    return told if bool(((told[:, 0] >= 0) & (told[:, 0] < told[:, 1]) & np.isfinite(told[:, 1])).all()) else None


def _intersections(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    start_s, end_s = np.maximum(a[:, None, 0], b[None, :, 0]), np.minimum(a[:, None, 1], b[None, :, 1])
    return np.maximum(end_s - start_s, 0)


def _closeness(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 + GIoU) / 2 of segments [..., 2] that broadcast: the temporal IoU less the gap's share of the hull."""
    hull_s = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    gap_s = np.maximum(np.maximum(a[..., 0], b[..., 0]) - np.minimum(a[..., 1], b[..., 1]), 0)
    apart = np.divide(gap_s, hull_s, out=np.ones_like(hull_s), where=hull_s > 0)
    return (1 + iou_of(a, b) - apart) / 2


def _over(part: float, whole: float, epsilon: float) -> float:
    return part / (whole + epsilon) if whole + epsilon > 0 else 0.0
