"""LoomBench's questions as samples: how each is asked, what is true, and what an answer says to it.

A sample with ``meta.question_kind``: ``when`` has the task ``moment_retrieval``; ``where`` and ``combined`` have
``referring_segmentation`` and tracks. Its one event is the segment. ``combined`` is asked twice, as in the paper
(supplement, figure 9): the question alone for the segment, then with :data:`SEGMENT_PROMPT` behind it for the masks;
``meta.prompts``, ``{"when": ..., "where": ...}``, takes the place of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from timeexpert.data.mask_rle import MaskError
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample

from .errors import EvaluationError
from .loombench import LoomAnswer, LoomQuestion
from .records import Answer, Told
from .track_masks import shown_at, usual_step_s

KIND = "question_kind"  # in a sample's meta
SEGMENT_PROMPT = "Please segment."
MAX_PIXELS = 2**31  # of one question's masks, all frames together: a byte each, and four times that while it is scored


def prompts_of(sample: Sample) -> tuple[tuple[str, str], ...]:
    """(prompt, task) of each request that a question takes; :func:`joined` makes one answer of theirs."""
    if sample.meta.get(KIND) != "combined":
        return ((sample.prompt, sample.task),)
    own = sample.meta.get("prompts", {"when": sample.prompt, "where": f"{sample.prompt} {SEGMENT_PROMPT}"})
    return (own["when"], "moment_retrieval"), (own["where"], "referring_segmentation")


def joined(parts: Sequence[Answer]) -> Answer:
    """The answers to :func:`prompts_of` a question as one: the first one's events, the last one's masks."""
    first, last = parts[0], parts[-1]
    if first is last or first.events is None or last.events is None:
        return next((part for part in parts if part.events is None), first)
    return replace(
        first,
        problems=[problem for part in parts for problem in part.problems],
        text="\n".join(part.text for part in parts),
        tracks=last.tracks,
    )


def question_of(sample: Sample) -> LoomQuestion:
    """The truth of a sample. Masks are decoded when they are asked for.

    The frames of ``where`` and ``combined`` are those of the tracks. Where the tracks of ``combined`` leave parts of
    the video out, their usual step goes on there, without the object: masks told there are wrong. Raises
    :class:`EvaluationError` naming the sample, and what it lacks.
    """
    kind = str(sample.meta.get(KIND))
    prompts = sample.meta.get("prompts", {"when": "", "where": ""})
    if not isinstance(prompts, dict) or not all(isinstance(prompts.get(name), str) for name in ("when", "where")):
        raise EvaluationError(
            f"{sample.id}: meta.prompts ({prompts!r:.60}) must be an object of texts, when and where."
        )
    event = sample.events[0]
    segment = None if event.start_s is None or event.end_s is None else (event.start_s, event.end_s)
    if segment is None and kind != "where":
        raise EvaluationError(
            f"{sample.id}: events[0] has no start_s and end_s, and a {kind} question needs the segment it asks for."
        )
    if kind == "when":
        return LoomQuestion("when", segment or (0.0, 0.0))
    if not sample.tracks:
        raise EvaluationError(f"{sample.id}: a {kind} question needs tracks, the masks of what it asks for.")
    for i, track in enumerate(sample.tracks):
        try:
            track.check()
        except MaskError as error:
            raise EvaluationError(f"{sample.id}: tracks[{i}]: {error}") from None
    times = np.unique(np.concatenate([track.times_s for track in sample.tracks]))
    if segment is None:
        segment = (float(times[0]), max(float(times[-1]), float(times[0]) + 1e-6))
    if kind == "combined" and sample.duration_s is not None:
        times = _through(times, sample.duration_s)
    height, width = sample.tracks[0].size
    if len(times) * height * width > MAX_PIXELS:
        raise EvaluationError(
            f"{sample.id}: its masks have {len(times)} frames of {height}x{width} pixels, more than {MAX_PIXELS} in "
            "all. Give masks of fewer frames a second, or a shorter video."
        )
    return LoomQuestion(kind, segment, partial(_true_masks, sample.tracks, times), times)  # type: ignore[arg-type]


def answer_of(told: Told, question: LoomQuestion) -> LoomAnswer | None:
    """The first segment and the masks of an answer, on the question's frames; ``None`` where it did not parse."""
    if told.problem is not None:
        return None
    masks = None
    if told.tracks and question.frame_times_s is not None:
        masks = partial(shown_at, told.tracks, question.frame_times_s)
    return LoomAnswer(told.segments_s[0] if told.segments_s else None, masks)


def _true_masks(tracks: Sequence[MaskTrack], times_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The masks at the very times of the tracks; a track without one of the times does not show its object then."""
    shown = np.zeros((len(times_s), *tracks[0].size), dtype=bool)
    for track in tracks:
        for i, t in enumerate(np.searchsorted(times_s, track.times_s)):
            shown[t] |= track.mask(i)
    return shown


def _through(times_s: NDArray[np.float64], duration_s: float) -> NDArray[np.float64]:
    """``times_s``, and before and after them times at their usual step, to the video's beginning and end."""
    step_s = usual_step_s(times_s)
    before = np.arange(times_s[0] - step_s, -1e-9, -step_s)[::-1]
    after = np.arange(times_s[-1] + step_s, duration_s, step_s)
    return np.concatenate([np.maximum(before, 0.0), times_s, after])
