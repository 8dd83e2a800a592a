"""Which prediction answers which question: by id, number of the annotation, qid, video, or video and query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import EvaluationError
from ..records import Told
from .predictions import Predictions
from .references import Reference


@dataclass(frozen=True)
class Matched:
    """Predictions in the order of the references, ``None`` where one is missing; ``extra``: keys no reference has."""

    told: list[Told | None]
    key: str
    extra: list[str]


def match(references: Sequence[Reference], predictions: Predictions) -> Matched:
    """Pair them by the kind of key that names most references; of equals, by the first of the predictions' kinds.

    Raises :class:`EvaluationError` where nothing matches, or only a key that several references share.
    """
    best: Matched | None = None
    most, shared = 0, ""
    for key in predictions.keys:
        given = predictions.by(key)
        wanted = [r.keys.get(key) for r in references]
        named = [k for k in wanted if k is not None and k in given]
        if len(set(named)) < len(named):
            shared = shared or f"{key} {next(k for i, k in enumerate(named) if k in named[:i])!r}"
        elif len(named) > most:
            told = [given.get(k) if k is not None else None for k in wanted]
            best, most = Matched(told, key, [k for k in given if k not in set(named)]), len(named)
    if best is None and shared:
        raise EvaluationError(
            f"{predictions.path}: its answers do not name one question: {shared} is that of several references. Give "
            "predictions with the question's id or qid."
        )
    if best is None and not predictions.rows:
        rows = predictions.bad_rows
        bad = f" Of {len(rows)} rows none names a question: {rows[0]}." if rows else ""
        raise EvaluationError(
            f"{predictions.path}: holds no answer in the form {predictions.format}.{bad} Give a file with answers, or "
            "name its form with --format."
        )
    if best is None:
        ours = [r.keys.get(predictions.keys[0]) for r in references[:3]]
        theirs = list(predictions.by(predictions.keys[0]))[:3]
        raise EvaluationError(
            f"{predictions.path}: none of its {len(predictions.rows)} answers is about one of the {len(references)} "
            f"references. They are named by {' or '.join(predictions.keys)}, like {theirs}; the references like {ours}."
        )
    return best
