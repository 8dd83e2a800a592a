"""Held-out evaluation: ask every question, score every answer, keep every answer in a file.

Knows no model: ``answer`` is a function from questions to answers. A question whose video cannot be read is an
answer with an error; it counts as a miss in its metric and is never left out of the denominator.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from timeexpert.data.records import Sample
from timeexpert.tokenization import Event, EventSequence

from .errors import EvaluationError
from .meteor import Meteor
from .records import Answer, Told, answer_row
from .results import Scored
from .tasks import GROUPS, TASKS, score_task, task_named

SCORED_TASKS = (
    *("moment_retrieval", "dense_captioning", "highlight_detection", "action_segmentation"),
    *(name for name in GROUPS["loombench"] if not TASKS[name].needs_masks),
)


def scored_tasks(draws_masks: bool) -> tuple[str, ...]:
    """What is scored where no task is named: all that a model can answer."""
    return tuple(dict.fromkeys((*SCORED_TASKS, *(GROUPS["loombench"] if draws_masks else ()))))


def choose(samples: Sequence[Sample], max_per_task: int | None, tasks: Sequence[str] = SCORED_TASKS) -> list[Sample]:
    """The questions of ``tasks``, at most ``max_per_task`` of each, spread evenly over the data set; each once."""
    chosen: dict[str, Sample] = {}
    for task in [task_named(name) for name in tasks]:
        own = [s for s in samples if task.takes(s)]
        if max_per_task is not None and len(own) > max_per_task:
            own = [own[i] for i in np.linspace(0, len(own) - 1, max_per_task).astype(int)]
        chosen |= {sample.id: sample for sample in own}
    return list(chosen.values())


def scored_questions(
    samples: Sequence[Sample], max_per_task: int | None, where: object, tasks: Sequence[str] = SCORED_TASKS
) -> list[Sample]:
    """:func:`choose`, and a check that every truth can be scored. ``where``: their folder, for messages.

    ``tasks`` are names of :data:`TASKS`. Raises :class:`EvaluationError` where no question is scored, or names the
    question whose truth cannot be.
    """
    chosen = choose(samples, max_per_task, tasks)
    if not chosen:
        wanted = [task_named(name) for name in tasks]
        asks = dict.fromkeys(task.asks for task in wanted if task.kind is None)
        asks |= dict.fromkeys(task.name for task in wanted if task.kind is not None and task.asks not in asks)
        words = " or ".join(", ".join(ask.replace("_", " ") for ask in asks).rsplit(", ", 1))
        raise EvaluationError(f"{where}: holds no {words} question. Choose other held-out data.")
    for sample in chosen:
        for name in tasks:
            try:
                scored_task(name, [sample], [Answer(None)])
            except (EvaluationError, KeyError, TypeError, ValueError) as error:
                reason = f"meta lacks {error}." if isinstance(error, KeyError) else str(error)
                raise EvaluationError(
                    f"{where}: {sample.task} question {sample.id!r} cannot be scored: {reason}"
                ) from None
    return chosen


def evaluate(
    samples: Sequence[Sample],
    answer: Callable[[Sequence[Sample]], list[Answer]],
    *,
    batch_size: int,
    predictions: Path | None = None,
    tasks: Sequence[str] = SCORED_TASKS,
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (questions done, None) after each batch, then (all, figures). ``predictions``: file for the answers.

    Raises :class:`EvaluationError` before the first question where that file cannot be written.
    """
    if predictions is not None:
        _check_writable(predictions)
    by_id: dict[str, Answer] = {}
    for batch in batches(samples, batch_size):
        by_id.update(zip([sample.id for sample in batch], answer(batch), strict=True))
        yield len(by_id), None
    in_order = [by_id[sample.id] for sample in samples]
    if predictions is not None:
        write_predictions(predictions, samples, in_order)
    yield len(samples), score(samples, in_order, tasks)


def batches(samples: Sequence[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """The questions in batches, task by task: answers of one task are alike in length."""
    ordered = sorted(samples, key=lambda sample: sample.task)
    for begin in range(0, len(ordered), batch_size):
        yield ordered[begin : begin + batch_size]


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
            row = answer_row(sample, replace(answer, batch=0))  # without timings: equal runs give equal files
            out.write(json.dumps(row) + "\n")
    os.replace(temporary, path)


def score(samples: Sequence[Sample], answers: Sequence[Answer], tasks: Sequence[str] = SCORED_TASKS) -> dict[str, Any]:
    """Figures per task (percent), how many answers parsed, how many videos could not be read.

    With moment retrieval among ``tasks``, also :func:`by_segments` where a moment has several segments.
    """
    scored = {name: scored_task(name, samples, answers) for name in tasks}
    if "moment_retrieval" in tasks and any(_segments(sample) > 1 for sample in samples):
        scored |= by_segments(samples, answers)
    return flat(scored, answers)


def by_segments(samples: Sequence[Sample], answers: Sequence[Answer]) -> dict[str, Scored]:
    """Moment questions apart: ``multi_segment``, the F1 of those whose truth has several segments, and
    ``single_segment``, moment retrieval of those that have one."""
    out = {}
    for name, task in (("multi_segment", "multi_segment"), ("single_segment", "moment_retrieval")):
        several = name == "multi_segment"
        own = [(s, a) for s, a in zip(samples, answers, strict=True) if _segments(s) and (_segments(s) > 1) == several]
        out[name] = scored_task(task, [s for s, _ in own], [a for _, a in own])
    return out


def _segments(sample: Sample) -> int:
    """Segments of a moment question's truth; 0 for a question of another task."""
    return len(sample.events) if sample.task == "moment_retrieval" else 0


def scored_task(
    name: str,
    samples: Sequence[Sample],
    answers: Sequence[Answer],
    convention: str = "strict",
    meteor: Meteor | None = None,
) -> Scored:
    """One task of :data:`TASKS` on those of ``samples`` that it asks."""
    task = task_named(name)
    own = [(s, Told.of(a)) for s, a in zip(samples, answers, strict=True) if task.takes(s)]
    asked, told = [s for s, _ in own], [t for _, t in own]
    return Scored(asked, told, score_task(task, asked, told, convention, meteor))


def flat(scored: Mapping[str, Scored], answers: Sequence[Answer]) -> dict[str, Any]:
    """Figures and counts of each task that has questions, and of all answers: what a run records."""
    asked = len(answers)
    return {
        **{name: one.scores.to_json() for name, one in scored.items() if len(one.samples)},
        "parse_rate": 100.0 * sum(a.parsed for a in answers) / asked if asked else None,
        "unreadable": sum(a.error is not None for a in answers),
        "questions": asked,
    }


def mean_segment(samples: Sequence[Sample], training: Sequence[Sample]) -> list[Answer]:
    """The control that looks at nothing: always the training set's mean segment (its mean start and end)."""
    segments = [seg for s in training if s.task == "moment_retrieval" for seg in s.events.segments_s]
    if not segments:
        return [Answer(EventSequence()) for _ in samples]
    start_s, end_s = (float(v) for v in np.mean(segments, axis=0))
    return [Answer(EventSequence((Event(start_s, end_s),))) for _ in samples]
