"""Action segmentation of events: what is true and what was told as labelled frames, told words mapped to classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from timeexpert.data.action_steps import classes_of
from timeexpert.data.records import Sample

from . import segmentation
from .class_names import ClassNames
from .errors import EvaluationError
from .frame_labels import FrameLabels
from .records import Told
from .scores import Scores

FRAMES_PER_S = 15.0  # the rate of Breakfast and GTEA
MAX_FRAMES = 10_000_000
NAMED_TEXTS = 5


@dataclass
class Segmentations:
    """Frames of each video by its sample's id, 15 a second. ``told`` lacks a video without an answer; ``None``: it did
    not parse. ``classes``: by label set, in which told words were looked up."""

    truth: dict[str, FrameLabels] = field(default_factory=dict)
    told: dict[str, FrameLabels | None] = field(default_factory=dict)
    classes: dict[tuple[str, ...], ClassNames] = field(default_factory=dict)
    events_left_out: int = 0

    @property
    def names(self) -> list[str]:
        """Every class of every label set, once, in their order."""
        return list(dict.fromkeys(name for names in self.classes for name in names))


def segmentations(samples: Sequence[Sample], told: Sequence[Told | None]) -> Segmentations:
    """Frame labels of samples and of their answers, whose times have been read.

    A sample's label set is ``meta.classes``; samples without one share the set of all actions of their truths. Raises
    :class:`EvaluationError` on truth without times or with an action that is not in its label set.
    """
    shared = tuple(sorted({e.text for s in samples if classes_of(s.meta) is None for e in s.events}))
    out = Segmentations()
    for sample, answer in zip(samples, told, strict=True):
        names = classes_of(sample.meta) or shared
        if names not in out.classes:
            out.classes[names] = ClassNames(names)
        classes = out.classes[names]
        seconds = _seconds(sample)
        out.truth[sample.id], _ = labels_of_steps(_true_steps(sample, classes), seconds)
        if answer is None:
            continue
        out.told[sample.id] = None
        if answer.problem is None:
            spoken = zip(answer.segments_s, answer.texts or ("",) * len(answer.segments_s), strict=True)
            named = [(*segment, classes.match(text)) for segment, text in spoken]
            out.told[sample.id], bad = labels_of_steps(named, seconds)
            out.events_left_out += bad
    return out


def score_segmentations(samples: Sequence[Sample], told: Sequence[Told | None], convention: str) -> Scores:
    """The figures of :func:`~timeexpert.evaluation.segmentation.action_segmentation`, and how words became classes."""
    found = segmentations(samples, told)
    scores = segmentation.action_segmentation(found.truth, found.told, convention=convention)
    reports = [classes.report() for classes in found.classes.values()]
    steps = {name: sum(report[name] for report in reports) for name in ("texts", "exact", "nearest", "unmatched")}
    counts = {
        "texts": steps["texts"],
        "nearest_texts": steps["nearest"],
        "unmatched_texts": steps["unmatched"],
        "events_left_out": found.events_left_out,
    }
    policies = {"frames_per_s": FRAMES_PER_S, "nearest_class_threshold": reports[0]["threshold"] if reports else None}
    notes = []
    if steps["unmatched"]:
        share = 100 * steps["unmatched"] / steps["texts"]
        worst = _most_frequent(report["unmatched_texts"] for report in reports)
        notes.append(f"{steps['unmatched']} of {steps['texts']} texts ({share:.1f} %) are no class, such as {worst}.")
    return replace(
        scores,
        counts={**scores.counts, **counts},
        policies={**scores.policies, **policies},
        notes=[*scores.notes, *notes],
    )


def labels_of_steps(steps: Iterable[tuple[float, float, str]], duration_s: float) -> tuple[FrameLabels, int]:
    """Frames of (start_s, end_s, name), 15 a second, and how many steps were left out for times that are none."""
    frames = max(1, round(duration_s * FRAMES_PER_S))
    return FrameLabels.from_events(steps, num_frames=frames, frames_per_s=FRAMES_PER_S)


def _true_steps(sample: Sample, classes: ClassNames) -> list[tuple[float, float, str]]:
    steps = []
    for event in sample.events:
        if event.start_s is None or event.end_s is None:
            raise EvaluationError(f"{sample.id}: truth must hold events that all have times; leave other videos out.")
        name = classes.name_of(event.text)
        if name is None:
            raise EvaluationError(
                f"{sample.id}: action {event.text!r:.80} is not in the video's label set (meta.classes). Correct the "
                "action, or add it to the label set."
            )
        steps.append((event.start_s, event.end_s, name))
    return steps


def _seconds(sample: Sample) -> float:
    seconds = sample.duration_s or max(event.end_s or 0.0 for event in sample.events)
    if seconds * FRAMES_PER_S > MAX_FRAMES:
        raise EvaluationError(f"{sample.id}: a video of {seconds} s is longer than can be scored. Correct its times.")
    return seconds


def _most_frequent(reports: Iterable[Sequence[Sequence[object]]]) -> list[str]:
    counted: Counter[str] = Counter()
    for texts in reports:
        for text, count in texts:
            counted[str(text)] += int(count)  # type: ignore[call-overload]
    return [text for text, _ in counted.most_common(NAMED_TEXTS)]
