"""The tasks that can be scored: which questions they are about, and the one metric function behind each name.

A row of :data:`TASKS` turns questions and answers into a :class:`Scores`; ``timeexpert eval``, ``timeexpert score``
and the evaluations of a training run read the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from timeexpert.data.records import Sample
from timeexpert.errors import did_you_mean
from timeexpert.tokenization import EventSequence

from . import (
    answer_text,
    bidirectional,
    captioning,
    choices,
    grounding,
    highlight_text,
    highlights,
    multi_segment,
    segmentation,
)
from .caption_events import TimedCaptions
from .captioning import dense_captioning
from .errors import MISSING, EvaluationError
from .loom_samples import KIND, answer_of, question_of
from .loombench import ROWS, Row, loombench_kind
from .meteor import INSTALL, Meteor, MeteorError
from .moment_map import CONVENTIONS as moment_map_conventions
from .moment_map import moment_map
from .records import Told
from .scores import Scores
from .segmentation_answers import score_segmentations
from .soda import CONVENTIONS as soda_conventions
from .soda import soda

T = TypeVar("T")
Answers = Sequence[Told | None]


@dataclass(frozen=True)
class Task:
    """One name that ``--task`` takes. ``asks``: the task of the samples whose answers it scores."""

    name: str
    asks: str
    summary: str
    conventions: Mapping[str, Any]
    score: Callable[..., Scores]  # (samples, answers, convention), and meteor where it wants one
    headline: tuple[str, ...] = ()  # the figures a table shows; none: all
    wants_meteor: bool = False
    kind: str | None = None  # of the samples, in meta.question_kind; none: any
    needs_masks: bool = False

    def takes(self, sample: Sample) -> bool:
        """Whether it scores answers to ``sample``."""
        return sample.task == self.asks and self.kind in (None, sample.meta.get(KIND))


def _read(told: Told | None, value: Any) -> Any:
    """``MISSING``, ``None`` (did not parse) or ``value``, as metric functions take them."""
    return MISSING if told is None else None if told.problem is not None else value


def _ids(samples: Sequence[Sample]) -> list[str]:
    return [sample.id for sample in samples]


def with_times(told: Told | None, convention: str) -> Told | None:
    """Free text with the (start, end, caption) read from it, under the convention's rules or else the strict ones."""
    if told is None or not told.from_text or told.problem is not None:
        return told
    read = answer_text.EVENT_READINGS.get(convention, answer_text.read_events)
    events = read(told.text or "")
    if not events:
        spans = answer_text.READINGS.get(convention, answer_text.read_spans)(told.text or "")
        events = [(*span, "") for span in spans or []]
    if not events:
        return replace(told, problem="no times were read from the text")
    return replace(told, segments_s=tuple((e[0], e[1]) for e in events), texts=tuple(e[2] for e in events))


def _spans(told: Answers, convention: str) -> list[Any]:
    """Segments alone: those of free text by the convention's reading of segments."""
    read = answer_text.READINGS.get(convention, answer_text.read_spans)
    return [_read(t, t and (read(t.text or "") if t.from_text else list(t.segments_s))) for t in told]


def _moment_retrieval(samples: Sequence[Sample], told: Answers, convention: str) -> Scores:
    truth = [s.events.segments_s for s in samples]
    return grounding.moment_retrieval(truth, _spans(told, convention), items=_ids(samples), convention=convention)


def _multi_segment(samples: Sequence[Sample], told: Answers, convention: str) -> Scores:
    truth = [s.events.segments_s for s in samples]
    return multi_segment.multi_segment_f1(truth, _spans(told, convention), items=_ids(samples), convention=convention)


def _moment_map(samples: Sequence[Sample], told: Answers, convention: str) -> Scores:
    truth = [s.events.segments_s for s in samples]
    windows = [_read(t, t and _ranked(t)) for t in (with_times(t, convention) for t in told)]
    return moment_map(truth, windows, items=_ids(samples), convention=convention)


def _ranked(told: Told) -> list[tuple[float, float, float]]:
    """Windows with their scores; without scores, in the order in which they were written."""
    scores = told.scores or (0.0,) * len(told.segments_s)
    return [(*segment, score) for segment, score in zip(told.segments_s, scores, strict=True)]


def _highlights(samples: Sequence[Sample], told: Answers, convention: str) -> Scores:
    truth = [_highlight_truth(s, t) for s, t in zip(samples, told, strict=True)]
    points = [_read(t, t and _points(t, convention)) for t in told]
    return highlights.highlight_detection(truth, points, items=_ids(samples), convention=convention)


def _points(told: Told, convention: str) -> Any:
    if told.from_text:
        return highlight_text.READINGS.get(convention, highlight_text.read_highlights)(told.text or "")
    if told.clip_scores is not None:
        return highlights.clip_points(told.clip_scores)
    return [(start_s, score) for (start_s, _), score in zip(told.segments_s, told.scores, strict=False)]


def _highlight_truth(sample: Sample, told: Told | None) -> highlights.HighlightTruth:
    longest = 1.0 + max(e.end_s or 0.0 for e in sample.events)
    duration_s = sample.duration_s or (told.duration_s if told is not None else None) or longest
    if "saliency_scores" in sample.meta:
        return highlights.HighlightTruth.from_annotations(
            sample.meta["relevant_clip_ids"], sample.meta["saliency_scores"], duration_s
        )
    points = [(e.start_s, e.scores[0]) for e in sample.events if e.start_s is not None and e.scores]
    return highlights.HighlightTruth.from_points(points, duration_s)


def _dense_captioning(
    samples: Sequence[Sample], told: Answers, convention: str, meteor: Meteor | None = None
) -> Scores:
    answers = [_read(t, t and _captions(t)) for t in (with_times(t, convention) for t in told)]
    return dense_captioning(_references(samples), answers, items=_ids(samples), convention=convention, meteor=meteor)


def _soda(samples: Sequence[Sample], told: Answers, convention: str, meteor: Meteor | None = None) -> Scores:
    """SODA_c; SODA_d, which needs no METEOR, where there is none."""
    answers = [_read(t, t and _captions(t)) for t in (with_times(t, convention) for t in told)]
    given = {"items": _ids(samples), "convention": convention, "meteor": meteor}
    why = f"SODA_c needs METEOR, so this is SODA_d. {INSTALL}"
    if meteor is not None:
        try:
            return soda(_references(samples), answers, variant="c", **given)  # type: ignore[arg-type]
        except MeteorError as error:
            why = f"SODA_c has no figure, so this is SODA_d. {error}"
            given["meteor"] = None
    scores = soda(_references(samples), answers, variant="d", **given)  # type: ignore[arg-type]
    return replace(scores, notes=[*scores.notes, why])


def _captions(told: Told) -> TimedCaptions:
    return TimedCaptions.of(told.segments_s, told.texts or ("",) * len(told.segments_s))


def _references(samples: Sequence[Sample]) -> list[list[EventSequence]]:
    """The true events of each video, and those of further annotators (``meta.more_events``)."""
    return [[s.events, *map(EventSequence.from_json, s.meta.get("more_events", []))] for s in samples]


def _action_segmentation(samples: Sequence[Sample], told: Answers, convention: str) -> Scores:
    return score_segmentations(samples, [with_times(t, convention) for t in told], convention)


def _multiple_choice(samples: Sequence[Sample], told: Answers, convention: str) -> Scores:
    truth = [_choice(sample) for sample in samples]
    texts = [_read(t, t and (t.text or "")) for t in told]
    return choices.choice_accuracy(truth, texts, items=_ids(samples), groups=_groups(samples), convention=convention)


def _choice(sample: Sample) -> choices.Choice:
    options, answer = sample.meta.get("choices"), sample.events[0].text.strip()
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise EvaluationError(f"{sample.id}: meta.choices ({options!r:.60}) must list the options of the question.")
    places = [i for i, option in enumerate(options) if option.strip() == answer]
    if len(places) != 1:
        raise EvaluationError(f"{sample.id}: the answer ({answer!r:.60}) must be one of meta.choices, once.")
    return choices.Choice(tuple(options), places[0])


def _yes_no(samples: Sequence[Sample], told: Answers, convention: str) -> Scores:
    truth = []
    for sample in samples:
        answer = sample.events[0].text.strip().casefold().removesuffix(".")
        if answer not in ("yes", "no"):
            raise EvaluationError(f"{sample.id}: the answer ({answer!r:.60}) must be yes or no.")
        truth.append(answer == "yes")
    texts = [_read(t, t and (t.text or "")) for t in told]
    return choices.yes_no_accuracy(truth, texts, items=_ids(samples), groups=_groups(samples), convention=convention)


def _loombench(row: Row, samples: Sequence[Sample], told: Answers, convention: str) -> Scores:
    questions = {sample.id: question_of(sample) for sample in samples}
    pairs = zip(samples, (with_times(t, convention) for t in told), strict=True)
    answers = {sample.id: answer_of(t, questions[sample.id]) for sample, t in pairs if t is not None}
    return loombench_kind(row.kind, questions, answers, convention=convention, control=row.control)


def _groups(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """The groupings of ``meta.groups`` that every question has: ``{"duration": "short", "dimension": "order"}``."""
    every = [groups if isinstance(groups := s.meta.get("groups"), dict) else {} for s in samples]
    shared = [name for name in every[0] if all(name in groups for groups in every)] if every else []
    return {name: [str(groups[name]) for groups in every] for name in shared}


_ALL = (
    Task(
        "moment_retrieval",
        "moment_retrieval",
        "R@1 at IoU 0.3, 0.5, 0.7 and mIoU, one window per query",
        grounding.CONVENTIONS,
        _moment_retrieval,
    ),
    Task(
        "moment_map",
        "moment_retrieval",
        "QVHighlights: mAP at IoU 0.5 to 0.95, R1, by window length",
        moment_map_conventions,
        _moment_map,
        ("map", "map_0.5", "map_0.75", "r1_0.5", "r1_0.7", "map_short", "map_middle", "map_long"),
    ),
    Task(
        "multi_segment",
        "moment_retrieval",
        "F1 of sets of windows (MUSEG, E.T. Bench)",
        multi_segment.CONVENTIONS,
        _multi_segment,
    ),
    Task(
        "highlight_detection",
        "highlight_detection",
        "QVHighlights: mAP and HIT@1 over 2-second clips",
        highlights.CONVENTIONS,
        _highlights,
    ),
    Task(
        "dense_captioning",
        "dense_captioning",
        "event F1, CIDEr; with Java and METEOR's jar METEOR and SODA_c",
        captioning.CONVENTIONS,
        _dense_captioning,
        ("f1", "precision", "recall", "cider", "meteor", "soda_c", "caption_exact_match_0.5"),
        wants_meteor=True,
    ),
    Task("soda", "dense_captioning", "SODA_c alone", soda_conventions, _soda, wants_meteor=True),
    Task(
        "action_segmentation",
        "action_segmentation",
        "frame accuracy, Edit, F1 at 10, 25, 50 % overlap",
        segmentation.CONVENTIONS,
        _action_segmentation,
    ),
    Task(
        "multiple_choice",
        "general",
        "accuracy; options in meta.choices, groupings in meta.groups",
        choices.CONVENTIONS,
        _multiple_choice,
    ),
    Task("yes_no", "general", "accuracy of yes and no", choices.YES_NO_CONVENTIONS, _yes_no),
    *(
        Task(
            row.name,
            "moment_retrieval" if row.kind == "when" else "referring_segmentation",
            row.summary,
            bidirectional.CONVENTIONS,
            partial(_loombench, row),
            row.headline,
            kind=row.kind,
            needs_masks=row.kind != "when",
        )
        for row in ROWS
    ),
)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}
GROUPS = {"loombench": tuple(row.name for row in ROWS)}


def expanded(names: Sequence[str]) -> list[str]:
    """``names`` with the members of a group in its place, each once."""
    return list(dict.fromkeys(member for name in names for member in GROUPS.get(name, (name,))))


def task_named(name: str) -> Task:
    """The task of that name. Raises :class:`EvaluationError` with the names there are."""
    return named(TASKS, name)


def named(tasks: Mapping[str, T], name: str) -> T:
    """The row of ``tasks`` with that name. Raises :class:`EvaluationError` with the names there are."""
    if name not in tasks:
        hint = did_you_mean(name, tasks)
        groups = f", or {', '.join(GROUPS)} for all of a benchmark"
        raise EvaluationError(f"--task ({name!r}) must be one of {', '.join(tasks)}{groups}.{hint}")
    return tasks[name]


def check_convention(tasks: Sequence[Any], convention: str) -> None:
    """Raise :class:`EvaluationError` unless every one of ``tasks`` knows ``convention``."""
    for task in tasks:
        if convention not in task.conventions:
            raise EvaluationError(
                f"--convention ({convention!r}) is none of {task.name}'s: {', '.join(task.conventions)}. Choose one of "
                f"them, or other tasks with --task.{did_you_mean(convention, task.conventions)}"
            )


def score_task(
    task: Task, samples: Sequence[Sample], told: Answers, convention: str = "strict", meteor: Meteor | None = None
) -> Scores:
    """Score the answers ``told`` to the questions ``samples``. Raises :class:`EvaluationError` on truth that is bad."""
    check_convention([task], convention)
    if task.wants_meteor:
        return task.score(samples, told, convention, meteor)
    return task.score(samples, told, convention)


@contextmanager
def meteor_for(tasks: Sequence[Any]) -> Iterator[Meteor | None]:
    """A METEOR where one of ``tasks`` wants one and Java and the jar are there; ``None`` otherwise."""
    if not any(task.wants_meteor for task in tasks):
        yield None
        return
    try:
        meteor = Meteor()
    except MeteorError:  # the scores say in their notes how to install it
        yield None
        return
    with meteor:
        yield meteor
