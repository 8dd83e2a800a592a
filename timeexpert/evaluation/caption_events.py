"""Lists of timed captions, as dense captioning is scored on: checked truth, and predictions that may be anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timeexpert.tokenization import EventSequence

from .errors import MISSING, EvaluationError, Missing, require_same_length
from .scores import answer_counts

# The published scripts add this to the union. It decides ties: a rounded IoU a hair above its threshold stays a miss.
_UNION_EPSILON_S = 1e-8
ReversedTimes = Literal["miss", "sort"]


@dataclass(frozen=True, eq=False)
class TimedCaptions:
    """``segments_s`` float64 [events, 2] (start, end), NaN where an event has no time; one caption for each."""

    segments_s: NDArray[np.float64]
    captions: Sequence[str]

    def __len__(self) -> int:
        return len(self.captions)

    @classmethod
    def of(cls, segments_s: ArrayLike, captions: Iterable[Any]) -> TimedCaptions:
        """From [events, 2] and as many texts. Times that are no finite numbers become NaN: they overlap nothing."""
        texts = [text if isinstance(text, str) else "" if text is None else str(text) for text in captions]
        times = np.asarray(segments_s, dtype=np.float64).reshape(-1, 2)
        if len(times) != len(texts):
            raise EvaluationError(f"{len(times)} segments and {len(texts)} captions: there must be one for each.")
        unusable = ~np.isfinite(times).all(axis=1, keepdims=True)
        return cls(np.where(unusable, np.nan, times), texts)

    @classmethod
    def from_events(cls, events: EventSequence) -> TimedCaptions:
        """From a parsed answer or a true event list."""
        nowhere = (np.nan, np.nan)
        times = [nowhere if e.start_s is None or e.end_s is None else (e.start_s, e.end_s) for e in events]
        return cls(np.array(times, dtype=np.float64).reshape(-1, 2), [e.text for e in events])

    def by_start(self) -> TimedCaptions:
        """Ordered by start, events without a time last; of equal starts the first written first."""
        order = np.argsort(self.segments_s[:, 0], kind="stable")
        return TimedCaptions(self.segments_s[order], [self.captions[i] for i in order])

    def first(self, count: int | None) -> TimedCaptions:
        """The first ``count`` events, as written."""
        return self if count is None else TimedCaptions(self.segments_s[:count], self.captions[:count])


Truth = EventSequence | TimedCaptions | Sequence[EventSequence | TimedCaptions]
Prediction = EventSequence | TimedCaptions | Missing | None


def concatenated(lists: Sequence[TimedCaptions]) -> TimedCaptions:
    """All events of several lists, one list after the other."""
    return TimedCaptions(np.concatenate([t.segments_s for t in lists]), [c for t in lists for c in t.captions])


@dataclass(frozen=True, eq=False)
class Video:
    """One item: its name, one or more true lists, and what was predicted (``None``: nothing to score)."""

    name: str
    references: Sequence[TimedCaptions]
    predicted: TimedCaptions | None
    missing: bool


def videos_of(
    truth: Sequence[Truth], predictions: Sequence[Prediction], items: Sequence[str] | None, max_events: int | None
) -> list[Video]:
    """Checked truth beside predictions. Raises :class:`EvaluationError` that names the item, the value and the rule."""
    require_same_length(truth, predictions)
    names = [f"truth[{i}]" for i in range(len(truth))] if items is None else [str(item) for item in items]
    require_same_length(truth, names)
    videos = []
    for name, references, predicted in zip(names, truth, predictions, strict=True):
        alone = isinstance(references, (EventSequence, TimedCaptions))
        several = cast(Sequence[EventSequence | TimedCaptions], [references] if alone else references)
        lists = [_events(events) for events in several]
        if not lists or not all(len(events) and _timed(events) for events in lists):
            raise EvaluationError(f"{name} must hold events that all have times; leave other videos out.")
        told = None if predicted is None or predicted is MISSING else _events(predicted).first(max_events)
        videos.append(Video(name, lists, told, predicted is MISSING))
    return videos


def counts_of(videos: Sequence[Video]) -> dict[str, int]:
    """How many questions, answers and events there are."""
    told = answer_counts([MISSING if v.missing else v.predicted for v in videos])
    return {
        **told,
        "count": len(videos),
        "unparsed": len(videos) - told["parsed"],
        "predicted_events": sum(len(v.predicted) for v in videos if v.predicted is not None),
        "true_events": sum(len(events) for v in videos for events in v.references),
    }


def pairwise_iou(
    predicted_s: NDArray[np.float64], true_s: NDArray[np.float64], reversed_times: ReversedTimes
) -> NDArray[np.float64]:
    """IoU of each predicted segment (rows) with each true one (columns), in [0, 1]; 0 without a time.

    Intersection over the smaller of hull and sum of lengths, as the published scripts have it. A reversed segment
    overlaps nothing, or has its ends swapped first (``sort``).
    """
    p, g = predicted_s[:, None, :], true_s[None, :, :]
    if reversed_times == "sort":
        p, g = np.sort(p, axis=-1), np.sort(g, axis=-1)
    (p_start, p_end), (g_start, g_end) = np.moveaxis(p, -1, 0), np.moveaxis(g, -1, 0)
    with np.errstate(all="ignore"):  # predictions may hold any number: what is no overlap becomes 0 below
        intersection = np.minimum(p_end, g_end) - np.maximum(p_start, g_start)
        hull = np.maximum(p_end, g_end) - np.minimum(p_start, g_start)
        iou = intersection / (np.minimum(hull, p_end - p_start + g_end - g_start) + _UNION_EPSILON_S)
        return np.where((intersection > 0) & (iou > 0), np.minimum(iou, 1.0), 0.0)


def _events(events: EventSequence | TimedCaptions) -> TimedCaptions:
    return events if isinstance(events, TimedCaptions) else TimedCaptions.from_events(events)


def _timed(events: TimedCaptions) -> bool:
    return bool(np.isfinite(events.segments_s).all())
