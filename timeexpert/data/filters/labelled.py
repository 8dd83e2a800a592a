"""Calibration: what each threshold finds and what it gets wrong, on examples with labels."""

from __future__ import annotations

from collections.abc import Iterable

from timeexpert.data.records import Sample
from timeexpert.errors import UserError

from .clips import ClipStore
from .config import FilterConfig
from .curves import Calibration, Labels, calibrate, match_cuts
from .timing import AlignmentScorer, cut_candidates


def calibrate_cuts(labels: Labels, store: ClipStore, config: FilterConfig) -> Calibration:
    """Labelled cut times against the strongest steps; every other step of those clips counts as no cut."""
    faulty: list[float] = []
    good: list[float] = []
    for video, cuts_s in labels.cuts_s.items():
        clip = store.clip(video)
        if clip is None:
            raise UserError(f"labels: {store.failed[video]}")
        hits, others = match_cuts(cut_candidates(clip), cuts_s, len(clip.times_s))
        faulty += hits
        good += others
    return calibrate("steps between frames", faulty, good, config.cuts.threshold, drops_below=False)


def calibrate_alignment(
    labels: Labels, samples: Iterable[Sample], store: ClipStore, scorer: AlignmentScorer, threshold: float
) -> Calibration:
    """Labelled samples against their fit; a sample that cannot be measured passes, so it counts as fit 1."""
    faulty: list[float] = []
    good: list[float] = []
    missing = set(labels.aligned)
    for sample in samples:
        if sample.id in missing:
            missing.discard(sample.id)
            clip = store.clip(sample.video)
            fit = scorer.fit(sample, clip) if clip is not None else None
            (good if labels.aligned[sample.id] else faulty).append(fit.value if fit is not None else 1.0)
    if missing:
        raise UserError(
            f"labels: no sample has the id {min(missing)!r} ({len(missing)} such). Give the ids of SAMPLES."
        )
    return calibrate("samples", faulty, good, threshold, drops_below=True)
