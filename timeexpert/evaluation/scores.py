"""What a metric says about a set of answers: figures, counts, and sums from which both can be drawn again.

Every family of metrics reduces each item (a question, a video, a mask sequence) to a row of statistics whose
sum over the items gives the figures. A mean is (sum of values, number of items), an F1 over a data set is (true
positives, predicted, true). So an interval is the same figures from other sums: items drawn with replacement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import MISSING, EvaluationError

Figures = Mapping[str, NDArray[np.float64]]
_ROWS_AT_ONCE = 256  # resamples drawn together: 256 x 100,000 items are 200 MB


@dataclass(frozen=True, eq=False)
class Scores:
    """One metric family on one set of answers.

    ``statistics`` is float64 [items, columns]. ``combine`` turns sums over the items, [..., columns], to figures,
    each [...]; it gives NaN where there is no figure (no items, 0 of 0). ``counts`` always holds ``questions``,
    ``answered``, ``parsed`` and ``missing``; more where a family counts more. ``per_item`` holds one number per
    item (IoU, F1, ...) for reports and for finding the best and worst; the first is the family's own.
    ``convention`` names the reading that was used and ``policies`` its switches; ``scorers`` names outside
    programs and their versions. ``notes`` says in sentences what could not be computed and how to get it.
    """

    family: str
    items: Sequence[str]
    statistics: NDArray[np.float64]
    combine: Callable[[NDArray[np.float64]], Figures]
    counts: Mapping[str, int]
    per_item: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    convention: str = "strict"
    policies: Mapping[str, Any] = field(default_factory=dict)
    scorers: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.statistics.ndim != 2 or len(self.statistics) != len(self.items):
            raise ValueError(f"statistics of shape {self.statistics.shape} need one row for each of {len(self.items)}.")

    def figures(self) -> dict[str, float | None]:
        """The figures of all items; ``None`` where there is none."""
        return {name: _number(value) for name, value in self.combine(self.statistics.sum(axis=0)).items()}

    def to_json(self) -> dict[str, Any]:
        """Figures and counts side by side, and what they were computed with."""
        return {
            **self.figures(),
            **self.counts,
            "convention": self.convention,
            "policies": dict(self.policies),
            "scorers": dict(self.scorers),
            "notes": list(self.notes),
        }


def item_names(items: Sequence[str] | None, count: int) -> Sequence[str]:
    """``items``, or where none are named the places 0 to ``count`` - 1."""
    return items if items is not None else [str(place) for place in range(count)]


def answer_counts(answers: Sequence[Any]) -> dict[str, int]:
    """The counts of every family: ``questions``, and how many are ``answered``, ``parsed`` and ``missing``.

    Of ``answers`` (one per question) ``MISSING`` was not given and ``None`` did not parse.
    """
    missing = sum(answer is MISSING for answer in answers)
    unparsed = sum(answer is None for answer in answers)
    answered = len(answers) - missing
    return {"questions": len(answers), "answered": answered, "parsed": answered - unparsed, "missing": missing}


def intervals(
    scores: Scores, *, level: float = 0.95, samples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float] | None]:
    """Percentile bootstrap interval of each figure, items drawn with replacement (Efron and Tibshirani, 1993).

    ``None`` where there are fewer than two items, or where some draw has no figure. Bit-equal for one ``seed``.
    """
    _check(level, samples)
    drawn = _resampled([scores], samples, seed)
    if drawn is None:
        return dict.fromkeys(scores.figures())
    return {name: _interval(values, level) for name, values in drawn[0].items()}


def paired_differences(
    a: Scores, b: Scores, *, level: float = 0.95, samples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """``b`` minus ``a`` on the same items: ``difference``, its bootstrap ``interval``, and ``share_above_zero``.

    The same draw of items serves both, so what the items have in common cancels. Raises
    :class:`EvaluationError` where the items differ.
    """
    _check(level, samples)
    if list(a.items) != list(b.items):
        only_a, only_b = sorted(set(a.items) - set(b.items)), sorted(set(b.items) - set(a.items))
        raise EvaluationError(
            f"two sets of {a.family} answers can be compared on the same items only: {len(only_a)} are in the first "
            f"alone {only_a[:3]}, {len(only_b)} in the second alone {only_b[:3]}. Score both on the same references."
        )
    ours, theirs = a.figures(), b.figures()
    drawn = _resampled([a, b], samples, seed)
    rows: dict[str, dict[str, Any]] = {}
    for name in ours.keys() & theirs.keys():
        first, second = ours[name], theirs[name]
        difference = None if first is None or second is None else second - first
        row: dict[str, Any] = {"a": first, "b": second, "difference": difference, "interval": None}
        if drawn is not None and difference is not None:
            apart = drawn[1][name] - drawn[0][name]
            row["interval"] = _interval(apart, level)
            row["share_above_zero"] = float(np.mean(apart > 0))
        rows[name] = row
    return {name: rows[name] for name in ours if name in rows}


def mean_intervals(
    groups: Sequence[Sequence[Scores]], *, level: float = 0.95, samples: int = 1000, seed: int = 0
) -> list[dict[str, dict[str, Any]]]:
    """For each group of :class:`Scores` on the same items (one per seed of training) the mean of every figure.

    Rows of ``mean``, its bootstrap ``interval`` over the items, and ``difference`` from the first group with
    ``difference_interval``; one draw of items serves all. Raises :class:`EvaluationError` where items differ.
    """
    _check(level, samples)
    flat = [scores for group in groups for scores in group]
    for scores in flat:
        if list(scores.items) != list(flat[0].items):
            raise EvaluationError(
                f"{flat[0].family}: {len(flat[0].items)} items are scored in one run and {len(scores.items)}, or "
                "others, in another. Runs compare on the same questions only."
            )
    drawn = iter(_resampled(flat, samples, seed) or [])
    means = [{name: _mean([s.figures()[name] for s in group]) for name in group[0].figures()} for group in groups]
    of_items = [[next(drawn, None) for _ in group] for group in groups]
    rows = []
    for mean, draws in zip(means, of_items, strict=True):
        row: dict[str, dict[str, Any]] = {}
        for name, value in mean.items():
            first = means[0][name]
            cell: dict[str, Any] = {"mean": value, "interval": None, "difference": None, "difference_interval": None}
            cell["difference"] = None if value is None or first is None else value - first
            if draws[0] is not None and of_items[0][0] is not None:
                own, base = (np.mean([d[name] for d in one if d is not None], axis=0) for one in (draws, of_items[0]))
                cell["interval"] = _interval(own, level)
                cell["difference_interval"] = _interval(own - base, level)
            row[name] = cell
        rows.append(row)
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _resampled(of: Sequence[Scores], samples: int, seed: int) -> list[dict[str, NDArray[np.float64]]] | None:
    """Figures of ``samples`` draws, the same draws for each of ``of``; ``None`` with fewer than two items."""
    count = len(of[0].items)
    if count < 2:
        return None
    rng = np.random.default_rng(seed)
    parts: list[list[Figures]] = [[] for _ in of]
    for begin in range(0, samples, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, samples - begin)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=rows).astype(np.float64)
        for scores, part in zip(of, parts, strict=True):
            part.append(scores.combine(weights @ scores.statistics))
    return [{name: np.concatenate([p[name] for p in part]) for name in part[0]} for part in parts]


def _interval(values: NDArray[np.float64], level: float) -> tuple[float, float] | None:
    if not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check(level: float, samples: int) -> None:
    if not 0 < level < 1:
        raise EvaluationError(f"level ({level!r}) of an interval must lie between 0 and 1, such as 0.95.")
    if not 1 <= samples <= 100_000:
        raise EvaluationError(f"samples ({samples!r}) must lie between 1 and 100000.")


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
