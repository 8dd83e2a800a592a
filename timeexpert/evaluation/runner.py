"""Held-out evaluation: ask every question, score every answer, keep every answer in a file.

Knows no model: ``answer`` is a function from questions to answers. A question whose video cannot be read is an
answer with an error; it counts as a miss in its metric and is never left out of the denominator.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from timeexpert.data.records import Sample
from timeexpert.tokenization import Event, EventSequence

from .captioning import dense_captioning
from .errors import EvaluationError
from .grounding import moment_retrieval
from .highlights import HighlightTruth, highlight_detection

SCORED_TASKS = ("moment_retrieval", "dense_captioning", "highlight_detection")


@dataclass(frozen=True)
class Answer:
    """What came back for one question. ``events`` is ``None`` when nothing could be asked (``error`` says why)."""

    events: EventSequence | None
    problems: list[dict[str, Any]] = field(default_factory=list)
    frame_times_s: Sequence[float] = ()
    duration_s: float | None = None
    error: str | None = None

    @property
    def parsed(self) -> bool:
        """Whether the whole answer could be read."""
        return self.events is not None and not self.problems


def choose(samples: Sequence[Sample], max_per_task: int | None) -> list[Sample]:
    """The scored questions, at most ``max_per_task`` of each task, spread evenly over the data set."""
    chosen: list[Sample] = []
    for task in SCORED_TASKS:
        own = [s for s in samples if s.task == task]
        if max_per_task is not None and len(own) > max_per_task:
            own = [own[i] for i in np.linspace(0, len(own) - 1, max_per_task).astype(int)]
        chosen += own
    return chosen


def scored_questions(samples: Sequence[Sample], max_per_task: int | None, where: object) -> list[Sample]:
    """:func:`choose`, and a check that every truth can be scored. ``where``: their folder, for messages.

    Raises :class:`EvaluationError` where no question is scored, or names the question whose truth cannot be.
    """
    chosen = choose(samples, max_per_task)
    if not chosen:
        raise EvaluationError(
            f"{where}: holds no moment retrieval, dense captioning or highlight question. Choose other held-out data."
        )
    for sample in chosen:
        try:
            score([sample], [Answer(None)])
        except (EvaluationError, KeyError, TypeError, ValueError) as error:
            reason = f"meta lacks {error}." if isinstance(error, KeyError) else str(error)
            raise EvaluationError(f"{where}: {sample.task} question {sample.id!r} cannot be scored: {reason}") from None
    return chosen


def evaluate(
    samples: Sequence[Sample],
    answer: Callable[[Sequence[Sample]], list[Answer]],
    *,
    batch_size: int,
    predictions: Path | None = None,
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (questions done, None) after each batch, then (all, figures). ``predictions``: file for the answers.

    Raises :class:`EvaluationError` before the first question where that file cannot be written.
    """
    if predictions is not None:
        _check_writable(predictions)
    answers: list[Answer] = []
    ordered = sorted(range(len(samples)), key=lambda i: (samples[i].task, i))  # answers of a task are alike in length
    places: list[int] = []
    for begin in range(0, len(ordered), batch_size):
        batch = ordered[begin : begin + batch_size]
        answers += answer([samples[i] for i in batch])
        places += batch
        yield len(answers), None
    by_place = dict(zip(places, answers, strict=True))
    in_order = [by_place[i] for i in range(len(samples))]
    if predictions is not None:
        write_predictions(predictions, samples, in_order)
    yield len(samples), score(samples, in_order)


def _check_writable(path: Path) -> None:
    temporary = path.with_suffix(".part")
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        if path.exists() and not path.is_file():
            raise EvaluationError(f"{path}: is there and not a file; predictions need a file. Choose another one.")
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be written: {error.strerror}. Choose another file.") from None


def write_predictions(path: Path, samples: Sequence[Sample], answers: Sequence[Answer]) -> None:
    """One JSON line per question with truth, answer, problems and error; written atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    with open(temporary, "w", encoding="utf-8") as out:
        for sample, answer in zip(samples, answers, strict=True):
            row = {
                "id": sample.id,
                "video": sample.video,
                "task": sample.task,
                "prompt": sample.prompt,
                "duration_s": sample.duration_s,
                "truth": sample.events.to_json(),
                "prediction": None if answer.events is None else answer.events.to_json(),
                "problems": answer.problems,
                "frame_times_s": list(answer.frame_times_s),
                "error": answer.error,
                "meta": sample.meta,
            }
            out.write(json.dumps(row) + "\n")
    os.replace(temporary, path)


def score(samples: Sequence[Sample], answers: Sequence[Answer]) -> dict[str, Any]:
    """Figures per task (percent), how many answers parsed, how many videos could not be read."""
    pairs = list(zip(samples, answers, strict=True))
    figures: dict[str, Any] = {}
    moments = [(s, a) for s, a in pairs if s.task == "moment_retrieval"]
    if moments:
        predicted = [a.events.segments_s if a.parsed and a.events is not None else None for _, a in moments]
        figures["moment_retrieval"] = moment_retrieval([s.events.segments_s for s, _ in moments], predicted)
    captions = [(s, a) for s, a in pairs if s.task == "dense_captioning"]
    if captions:
        told = [a.events if a.parsed else None for _, a in captions]
        figures["dense_captioning"] = dense_captioning([s.events for s, _ in captions], told)
    highlights = [(s, a) for s, a in pairs if s.task == "highlight_detection"]
    if highlights:
        truth = [_highlight_truth(s, a) for s, a in highlights]
        figures["highlight_detection"] = highlight_detection(truth, [_points(a) for _, a in highlights])
    asked = len(pairs)
    figures["parse_rate"] = 100.0 * sum(a.parsed for a in answers) / asked if asked else None
    figures["unreadable"] = sum(a.error is not None for a in answers)
    figures["questions"] = asked
    return figures


def _points(answer: Answer) -> list[tuple[float, float]] | None:
    if not answer.parsed or answer.events is None:
        return None
    return [(e.start_s, e.scores[0]) for e in answer.events if e.start_s is not None and e.scores]


def _highlight_truth(sample: Sample, answer: Answer) -> HighlightTruth:
    duration_s = sample.duration_s or answer.duration_s or 1.0 + max(e.end_s or 0.0 for e in sample.events)
    if "saliency_scores" in sample.meta:
        return HighlightTruth.from_annotations(
            sample.meta["relevant_clip_ids"], sample.meta["saliency_scores"], duration_s
        )
    points = [(e.start_s, e.scores[0]) for e in sample.events if e.start_s is not None and e.scores]
    return HighlightTruth.from_points(points, duration_s)


def mean_segment(samples: Sequence[Sample], training: Sequence[Sample]) -> list[Answer]:
    """The control that looks at nothing: always the training set's mean segment (its mean start and end)."""
    segments = [seg for s in training if s.task == "moment_retrieval" for seg in s.events.segments_s]
    if not segments:
        return [Answer(EventSequence()) for _ in samples]
    start_s, end_s = (float(v) for v in np.mean(segments, axis=0))
    return [Answer(EventSequence((Event(start_s, end_s),))) for _ in samples]
