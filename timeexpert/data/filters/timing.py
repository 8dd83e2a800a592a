"""Filters that hold annotated times against what the decoded clip says: real timestamps, cuts, alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from timeexpert.data.records import SEGMENT_TASKS, Sample

from .clips import Clip, ClipStore
from .config import AlignmentConfig, CutsConfig, TimestampsConfig
from .motion import boundary_evidence, cut_strength
from .verdict import PASS, Verdict, unseen

CUT_FLOOR = 0.8  # strengths below are no candidates at any threshold


def unreadable(store: ClipStore, sample: Sample) -> Verdict:
    """The verdict on a sample whose clip does not decode."""
    return Verdict(fault="unreadable clip", reason=store.failed[sample.video], detail={"video": sample.video})


class TimestampsFilter:
    """See :class:`TimestampsConfig`."""

    name = "timestamps"

    def __init__(self, config: TimestampsConfig, store: ClipStore) -> None:
        self.config, self.store = config, store

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Every event's times against the clip's last readable frame, and the annotated duration against the file's."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Verdict:
        clip = self.store.clip(sample.video)
        if clip is None:
            return unreadable(self.store, sample)
        real, config = clip.duration_s, self.config
        about = {"clip_duration_s": real, "damage": clip.damage} if clip.damage else {"clip_duration_s": real}
        for number, (start_s, end_s) in enumerate(sample.events.segments_s):
            if start_s >= real or end_s > real + config.past_end_s:
                return Verdict(
                    fault="past the end",
                    reason=f"segment {number} ({start_s:g} to {end_s:g} s) lies past the last readable frame, at "
                    f"{real:.2f} s.",
                    value=round(end_s - real, 3),
                    threshold=config.past_end_s,
                    detail={"event": number, **about},
                )
        if sample.duration_s is not None and abs(sample.duration_s - real) > config.duration_differs_s:
            return Verdict(
                fault="duration differs",
                reason=f"duration_s is {sample.duration_s:g}, and the file lasts {real:.2f} s.",
                value=round(sample.duration_s - real, 3),
                threshold=config.duration_differs_s,
                detail=about,
            )
        return PASS if sample.events.segments_s or sample.duration_s is not None else unseen("no times")


def cut_candidates(clip: Clip) -> list[tuple[float, float]]:
    """(time in seconds, strength) of the steps that may be cuts: stronger than their neighbours and ``CUT_FLOOR``."""
    strength = cut_strength(clip.novelty)
    padded = np.concatenate(([-np.inf], strength, [-np.inf]))
    peak = (strength >= padded[:-2]) & (strength > padded[2:]) & (strength >= CUT_FLOOR)
    return [(float(clip.times_s[i]), float(strength[i])) for i in np.flatnonzero(peak)]


class CutsFilter:
    """See :class:`CutsConfig`. ``values`` collects each judged sample's strongest cut, for the curve."""

    name = "cuts"

    def __init__(self, config: CutsConfig, store: ClipStore) -> None:
        self.config, self.store, self.values = config, store, list[float]()
        self._candidates: dict[str, list[tuple[float, float]]] = {}

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Drops a sample for the strongest cut inside one of its events, or anywhere with ``scope: clip``."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Verdict:
        config = self.config
        if sample.task not in config.tasks:
            return unseen("task not among cuts.tasks")
        clip = self.store.clip(sample.video)
        if clip is None:
            return unreadable(self.store, sample)
        spans = sample.events.segments_s if config.scope == "event" else [(0.0, clip.duration_s)]
        margin_s = config.margin_s if config.scope == "event" else 0.0
        inside = [
            (strength, time_s, number)
            for time_s, strength in self.candidates(clip)
            for number, (start_s, end_s) in enumerate(spans)
            if start_s + margin_s < time_s < end_s - margin_s
        ]
        strength, time_s, number = max(inside, default=(0.0, 0.0, 0))
        self.values.append(strength)
        if strength < config.threshold:
            return PASS
        where = f"inside segment {number} ({spans[number][0]:g} to {spans[number][1]:g} s)"
        return Verdict(
            fault="abrupt cut",
            reason=f"an abrupt cut at {time_s:.2f} s, {where if config.scope == 'event' else 'in the clip'}.",
            value=round(strength, 2),
            threshold=config.threshold,
            detail={
                "cut_s": round(time_s, 3),
                "event": number if config.scope == "event" else None,
                "cuts_inside": sum(s >= config.threshold for s, _, _ in inside),
            },
        )

    def candidates(self, clip: Clip) -> list[tuple[float, float]]:
        """:func:`cut_candidates`, kept for the clip's next sample."""
        if clip.video not in self._candidates:
            if len(self._candidates) > 4096:
                self._candidates.clear()
            self._candidates[clip.video] = cut_candidates(clip)
        return self._candidates[clip.video]


@dataclass(frozen=True)
class Fit:
    """How well events lie where they are annotated: ``value`` 0 to 1, higher is better; ``best_shift_s`` fits best."""

    value: float
    best_shift_s: float
    saw: str  # one clause for the reason of a dropped sample


class AlignmentScorer(Protocol):
    """Measures a sample's events against the same events shifted in time. ``None``: nothing can be told."""

    threshold: float  # below it a sample counts as misaligned, where the config names no other

    def fit(self, sample: Sample, clip: Clip) -> Fit | None:
        """The fit of the events of ``sample`` in ``clip``."""
        ...


class AlignmentFilter:
    """See :class:`AlignmentConfig`. ``values`` collects each measured sample's value, for the curve."""

    name = "alignment"

    def __init__(self, config: AlignmentConfig, store: ClipStore, scorer: AlignmentScorer) -> None:
        self.store, self.scorer, self.values = store, scorer, list[float]()
        self.threshold = scorer.threshold if config.threshold is None else config.threshold

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Drops samples whose events fit better elsewhere."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Verdict:
        if sample.task not in SEGMENT_TASKS:
            return unseen("task without segments")
        clip = self.store.clip(sample.video)
        if clip is None:
            return unreadable(self.store, sample)
        fit = self.scorer.fit(sample, clip)
        if fit is None:
            return unseen("nothing to see at the events' places")
        self.values.append(fit.value)
        if fit.value >= self.threshold:
            return PASS
        return Verdict(
            fault="misaligned",
            reason=f"{fit.saw}; the events fit best {abs(fit.best_shift_s):.1f} s "
            f"{'later' if fit.best_shift_s > 0 else 'earlier'}.",
            value=round(fit.value, 3),
            threshold=self.threshold,
            detail={"best_shift_s": round(fit.best_shift_s, 2), "segments_s": sample.events.segments_s},
        )


class BoundaryScorer:
    """Visible changes at the annotated starts and ends, against those at the same times all shifted.

    A place is scored by the geometric mean, over the boundaries, of the strongest :func:`boundary_evidence` within
    ``tolerance_s`` (at least a step and a quarter). ``value`` is the score of the annotated place as a share of the
    best score of any shift within ``max_shift_s`` that keeps the events inside the clip. It sees that something
    changes, not what: only events that begin and end with a visible change can be judged by it.
    """

    threshold = 0.5
    GRID_S = 0.1
    EDGE_S = 0.5  # boundaries this close to the clip's own are not visible changes
    CLEAR = 1.5  # the best score must stand this far above the clip's mean evidence, or nothing is told
    WEAKEST = 0.5  # added to each evidence before the mean: one boundary without evidence does not decide alone

    def __init__(self, config: AlignmentConfig) -> None:
        self.max_shift_s, self.tolerance_s = config.max_shift_s, config.tolerance_s

    def fit(self, sample: Sample, clip: Clip) -> Fit | None:
        """``None`` where no boundary lies inside the clip, or no shift has clear evidence."""
        boundaries = np.unique([time_s for segment in sample.events.segments_s for time_s in segment])
        inner = boundaries[(boundaries > self.EDGE_S) & (boundaries < clip.duration_s - self.EDGE_S)]
        if not len(inner) or len(clip.times_s) < 4:
            return None
        low = max(-self.max_shift_s, -float(boundaries[0]))
        high = min(self.max_shift_s, clip.duration_s - float(boundaries[-1]))
        shifts = np.arange(np.ceil(min(low, 0) / self.GRID_S), np.floor(max(high, 0) / self.GRID_S) + 1) * self.GRID_S
        evidence = boundary_evidence(clip.change)
        at = self._evidence_at(clip, evidence, inner[None, :] + shifts[:, None])
        scores = np.exp(np.log(at + self.WEAKEST).mean(axis=1)) - self.WEAKEST
        equals = np.flatnonzero(scores >= scores.max() - 1e-9)  # the tolerance makes a plateau
        best = int(equals[len(equals) // 2])
        if scores[best] - float(evidence.mean()) < self.CLEAR:
            return None
        value = float(scores[np.argmin(np.abs(shifts))] / scores[best])
        places = "boundary" if len(inner) == 1 else f"{len(inner)} boundaries"
        saw = f"the evidence of change at the annotated {places} is {value:.0%} of that at the best shift"
        return Fit(value, float(shifts[best]), saw)

    def _evidence_at(self, clip: Clip, evidence: np.ndarray, times_s: np.ndarray) -> np.ndarray:
        """The strongest evidence within the tolerance of each time."""
        tolerance_s = max(self.tolerance_s, 1.25 * clip.step_s)
        first = np.searchsorted(clip.times_s, times_s - tolerance_s, side="left")
        last = np.searchsorted(clip.times_s, times_s + tolerance_s, side="right")
        out = np.zeros(times_s.shape)
        for offset in range(int((last - first).max(initial=0))):
            index = first + offset
            inside = index < last
            out = np.where(inside, np.maximum(out, evidence[np.minimum(index, len(evidence) - 1)]), out)
        return out
