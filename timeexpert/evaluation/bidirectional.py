"""Bidirectional-foreground J&F: are the right pixels marked, in the right frames?

Definition: VideoLoom, formula (3): the harmonic mean of J&F over the frames of the prediction and J&F over the frames
of the truth, each frame scored as in :mod:`.masks`. The paper leaves three things open, and published no code. Here the
frames of a masklet are the span from its first non-empty mask to its last one; an empty prediction has J_p = F_p = 0,
and two empty masklets have 1 in everything; a data set's value is the formula on the means of its four components,
which is what reproduces the paper's Table 12. The mean of the questions' own values is given beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conventions import chosen, policies
from .errors import EvaluationError
from .masks import frame_scores
from .scores import Scores
from .video_objects import is_masks

COLUMNS = ("questions", "j_p", "f_p", "j_g", "f_g", "bi_fore", "j", "f", "tiou")


@dataclass(frozen=True)
class Convention:
    """``span``: a masklet's frames are all from its first non-empty mask to its last, else the non-empty ones alone."""

    span: bool = True


CONVENTIONS = {"strict": Convention(), "frames": Convention(span=False)}


@dataclass(frozen=True)
class Foreground:
    """One question, all in [0, 1]: J and F over the frames of the prediction (p) and of the truth (g), the plain ``j``
    and ``f`` over all frames, ``tiou`` of the two spans in whole frames, and the spans (first, last)."""

    j_p: float
    f_p: float
    j_g: float
    f_g: float
    j: float
    f: float
    tiou: float
    span_p: tuple[int, int] | None
    span_g: tuple[int, int] | None

    @property
    def bi_fore(self) -> float:
        """Formula (3)."""
        return float(formula(*(np.float64(v) for v in (self.j_p, self.f_p, self.j_g, self.f_g))))


NOTHING = Foreground(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, None, None)


def formula(j_p: Any, f_p: Any, j_g: Any, f_g: Any) -> NDArray[np.float64]:
    """Formula (3) of the paper on arrays of any one shape; 0 where both sides are 0."""
    p, g = np.asarray(j_p + f_p), np.asarray(j_g + f_g)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p + g > 0, p * g / (p + g), np.where(np.isnan(p + g), np.nan, 0.0))


def masklet_span(masks: NDArray[Any]) -> tuple[int, int] | None:
    """First and last frame of ``masks`` [T, H, W] that is not empty; ``None`` where all are."""
    frames = np.flatnonzero(_shown(masks))
    return (int(frames[0]), int(frames[-1])) if len(frames) else None


def foreground_scores(truth: NDArray[Any], predicted: NDArray[Any], *, span: bool = True) -> Foreground:
    """One masklet against another, both [T, H, W]. Raises :class:`EvaluationError` where shapes differ."""
    j, f = frame_scores(truth, predicted)
    p, g = masklet_span(predicted), masklet_span(truth)
    if p is None and g is None:
        return Foreground(1.0, 1.0, 1.0, 1.0, float(j.mean()), float(f.mean()), 1.0, None, None)
    over = []
    for masks, ends in ((predicted, p), (truth, g)):
        frames = np.zeros(len(masks), dtype=bool) if ends is None else _shown(masks)
        if span and ends is not None:
            frames[ends[0] : ends[1] + 1] = True
        over += [float(values[frames].mean()) if frames.any() else 0.0 for values in (j, f)]
    shared = 0 if p is None or g is None else max(min(p[1], g[1]) - max(p[0], g[0]) + 1, 0)
    either = sum(ends[1] - ends[0] + 1 for ends in (p, g) if ends is not None) - shared
    j_p, f_p, j_g, f_g = over
    return Foreground(j_p, f_p, j_g, f_g, float(j.mean()), float(f.mean()), shared / either, p, g)


def bidirectional_foreground(
    truth: Mapping[str, NDArray[Any]], predictions: Mapping[str, NDArray[Any] | None], *, convention: str = "strict"
) -> Scores:
    """Score one masklet [T, H, W] per question.

    A question that is not in ``predictions`` is missing; ``None``, or an array of another size, did not parse; both
    score 0 in everything. Figures, percent: ``jf_bi_fore``, ``jf_bi_fore_question_mean``, ``j_p``, ``f_p``, ``jf_p``,
    ``j_g``, ``f_g``, ``jf_g``, the plain ``jf``, and ``tiou`` of the spans in frames. Raises :class:`EvaluationError`
    where a true masklet is none and for an unknown convention.
    """
    rules = chosen(CONVENTIONS, convention, "bidirectional foreground J&F")
    found: dict[str, Foreground | None] = {}
    for name in truth:
        true, told = truth[name], predictions.get(name)
        if not is_masks(true) or true.ndim != 3:
            raise EvaluationError(f"{name}: the truth must be one masklet, an array of numbers of shape [T, H, W].")
        usable = is_masks(told) and told.shape == true.shape  # type: ignore[union-attr]
        found[name] = foreground_scores(true, told, span=rules.span) if usable else None  # type: ignore[arg-type]
    return foreground_table(
        "bidirectional_foreground", found, [name in predictions for name in found], convention, policies(rules)
    )


def foreground_table(
    family: str,
    found: Mapping[str, Foreground | None],
    answered: Sequence[bool],
    convention: str,
    rules: Mapping[str, Any],
) -> Scores:
    """:class:`Scores` of questions; ``None``: nothing that could be scored, 0 in everything.

    ``answered``: of each question, whether it has any answer. ``per_item``: every figure of one question in percent,
    its own bidirectional one first, and ``answered`` and ``parsed`` (0 or 1).
    """
    rows = [value or NOTHING for value in found.values()]
    parsed = [value is not None for value in found.values()]
    table = np.array([[1, v.j_p, v.f_p, v.j_g, v.f_g, v.bi_fore, v.j, v.f, v.tiou] for v in rows], dtype=np.float64)
    table = table.reshape(-1, len(COLUMNS))
    figures = _figures(table)
    return Scores(
        family=family,
        items=list(found),
        statistics=table,
        combine=_figures,
        counts={
            "questions": len(found),
            "answered": sum(answered),
            "parsed": sum(parsed),
            "missing": len(found) - sum(answered),
        },
        per_item={
            **{name: values for name, values in figures.items() if name != "jf_bi_fore_question_mean"},
            "answered": np.array(answered, dtype=np.float64),
            "parsed": np.array(parsed, dtype=np.float64),
        },
        convention=convention,
        policies=rules,
    )


def _figures(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = {name: 100 * sums[..., i] / sums[..., 0] for i, name in enumerate(COLUMNS)}
    return {
        "jf_bi_fore": formula(*(mean[name] for name in ("j_p", "f_p", "j_g", "f_g"))),
        "jf_bi_fore_question_mean": mean["bi_fore"],
        "tiou": mean["tiou"],
        "j_p": mean["j_p"],
        "f_p": mean["f_p"],
        "jf_p": (mean["j_p"] + mean["f_p"]) / 2,
        "j_g": mean["j_g"],
        "f_g": mean["f_g"],
        "jf_g": (mean["j_g"] + mean["f_g"]) / 2,
        "jf": (mean["j"] + mean["f"]) / 2,
    }


def _shown(masks: NDArray[Any]) -> NDArray[np.bool_]:
    """Frames with a pixel of the object (not 0, not NaN), [T]."""
    flags: Any = masks if masks.dtype == bool else (masks != 0) & (masks == masks)
    shown: NDArray[np.bool_] = flags.any(axis=(1, 2))
    return shown
