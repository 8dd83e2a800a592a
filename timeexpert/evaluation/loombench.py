"""LoomBench's three kinds of question: When, Where and Combined (VideoLoom, section 3.3).

*When* asks for a segment: R@1 at temporal IoU 0.5 and the mean IoU. *Where* names a segment and asks for the masks in
it: J&F over its frames, averaged over questions. *Combined* asks for both: bidirectional-foreground J&F and temporal
IoU. As the paper asks twice for Combined (a segment, then masks), predicted masks count inside the predicted segment
only; an answer with masks alone has the span of its masks as its segment.

Two controls are scored on the same answers to Combined questions: what would remain of them without masks
(``time_only``: the predicted segment with a box around the whole frame), and without a segment (``mask_only``: the
predicted masks over the whole video).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from timeexpert.data.mask_rle import MaskError

from .bidirectional import CONVENTIONS, Foreground, foreground_scores, foreground_table, masklet_span
from .conventions import chosen, policies
from .errors import EvaluationError
from .grounding import temporal_iou
from .masks import frame_scores
from .scores import Scores
from .video_objects import is_masks

Kind = Literal["when", "where", "combined"]
KINDS: tuple[Kind, ...] = ("when", "where", "combined")
WHEN_THRESHOLD = 0.5
CONTROLS = {"time_only": "the whole frame, in the predicted segment", "mask_only": "over the whole video"}


@dataclass(frozen=True)
class Row:
    """One line of LoomBench's table."""

    kind: Kind
    control: str | None
    summary: str
    headline: tuple[str, ...]

    @property
    def name(self) -> str:
        """``loombench_combined_time_only``."""
        return "_".join(filter(None, ("loombench", self.kind, self.control)))


_BOTH = ("jf_bi_fore", "jf_bi_fore_question_mean", "tiou", "jf_p", "jf_g")
ROWS = (
    Row("when", None, "LoomBench when: R1@0.5 and temporal IoU", ("r1_0.5", "tiou")),
    Row("where", None, "LoomBench where: J&F in the given segment", ("jf", "j", "f")),
    Row("combined", None, "LoomBench combined: bidirectional-foreground J&F, temporal IoU", _BOTH),
    *(Row("combined", name, f"the control to LoomBench combined: {what}", _BOTH) for name, what in CONTROLS.items()),
)


@dataclass(frozen=True, eq=False)
class LoomQuestion:
    """A question and its truth. ``segment_s`` is (start, end) in seconds: what *When* and *Combined* ask for and what
    *Where* names. *Where* and *Combined* have ``masks`` [T, H, W] (or a function that decodes them, for a benchmark's
    masks together fill no memory) and the ``frame_times_s`` [T] of these frames."""

    kind: Kind
    segment_s: tuple[float, float]
    masks: NDArray[Any] | Callable[[], NDArray[Any]] | None = None
    frame_times_s: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class LoomAnswer:
    """``segment_s`` for *When* and *Combined*, ``masks`` [T, H, W] on the question's frames for *Where* and
    *Combined* (or a function from their size (H, W) to them); ``None`` is what was not answered or did not parse."""

    segment_s: tuple[float, float] | None = None
    masks: NDArray[Any] | Callable[[tuple[int, int]], NDArray[Any]] | None = None


def loombench(
    questions: Mapping[str, LoomQuestion], answers: Mapping[str, LoomAnswer | None], *, convention: str = "strict"
) -> dict[Kind, Scores]:
    """One :class:`Scores` per kind that ``questions`` hold. Figures, percent:

    ``when``: ``r1_0.5``, ``tiou``. ``where``: ``jf``, ``j``, ``f``. ``combined``: those of
    :func:`.bidirectional_foreground`, with ``tiou`` of segments in seconds. A question without an answer, or with one
    that lacks what its kind needs, scores 0. ``per_item`` has the figures of each question, in percent, and whether it
    was ``answered`` and ``parsed`` (0 or 1). ``convention`` is one of the bidirectional foreground's. Raises
    :class:`EvaluationError` naming a question whose truth is none.
    """
    for name, question in questions.items():
        _check(name, question)
    kinds = {question.kind for question in questions.values()}
    return {kind: loombench_kind(kind, questions, answers, convention=convention) for kind in KINDS if kind in kinds}


def loombench_kind(
    kind: Kind,
    questions: Mapping[str, LoomQuestion],
    answers: Mapping[str, LoomAnswer | None],
    *,
    convention: str = "strict",
    control: str | None = None,
) -> Scores:
    """The one kind of :func:`loombench`. ``control``: of :data:`CONTROLS`, for *Combined*."""
    chosen(CONVENTIONS, convention, "LoomBench")
    for name, question in questions.items():
        _check(name, question)
    asked = {name: question for name, question in questions.items() if question.kind == kind}
    if kind == "combined":
        return _combined(asked, answers, convention, control)
    return (_when if kind == "when" else _where)(asked, answers, convention)


def _when(asked: Mapping[str, LoomQuestion], answers: Mapping[str, LoomAnswer | None], convention: str) -> Scores:
    told = [_segment(answers.get(name)) for name in asked]
    parsed = [segment is not None for segment in told]
    true = [question.segment_s for question in asked.values()]
    ious = [0.0 if segment is None else temporal_iou(segment, t) for segment, t in zip(told, true, strict=True)]
    table = np.array([[1.0, iou >= WHEN_THRESHOLD, iou] for iou in ious], dtype=np.float64).reshape(-1, 3)
    return Scores(
        family="loombench_when",
        items=list(asked),
        statistics=table,
        combine=lambda sums: _means(sums, (f"r1_{WHEN_THRESHOLD}", "tiou")),
        counts=_counts(asked, answers, sum(parsed)),
        per_item={
            "tiou": 100 * table[:, 2],
            f"r1_{WHEN_THRESHOLD}": 100 * table[:, 1],
            **_states(asked, answers, parsed),
        },
        convention=convention,
        policies={"unparsed": "miss", "missing": "miss"},
    )


def _where(asked: Mapping[str, LoomQuestion], answers: Mapping[str, LoomAnswer | None], convention: str) -> Scores:
    table = np.zeros((len(asked), 3))
    parsed = []
    for row, (name, question) in zip(table, asked.items(), strict=True):
        row[0] = 1.0
        true = _true_masks(name, question)
        told = _masks(answers.get(name), true.shape)
        parsed.append(told is not None)
        if told is None:
            continue
        inside = _inside(question, question.segment_s)
        row[1:] = [values.mean() for values in frame_scores(true[inside], told[inside])]
    figures = _where_figures(table)
    return Scores(
        family="loombench_where",
        items=list(asked),
        statistics=table,
        combine=_where_figures,
        counts=_counts(asked, answers, sum(parsed)),
        per_item={**figures, **_states(asked, answers, parsed)},
        convention=convention,
        policies={"unparsed": "miss", "missing": "miss", "frames": "of the given segment"},
    )


def _combined(
    asked: Mapping[str, LoomQuestion],
    answers: Mapping[str, LoomAnswer | None],
    convention: str,
    control: str | None,
) -> Scores:
    rules = CONVENTIONS[convention]
    found: dict[str, Foreground | None] = {}
    for name, question in asked.items():
        true = _true_masks(name, question)
        told, segment = _masks(answers.get(name), true.shape), _segment(answers.get(name))
        if control == "time_only":
            told = None if segment is None else np.ones(true.shape, dtype=bool)
        if told is None:
            found[name] = None
            continue
        if control == "mask_only":
            segment = (float(_times(question)[0]), float(_times(question)[-1]))
        segment = segment or _shown_segment(told, question)
        true = _within(true, _inside(question, question.segment_s))
        told = _within(told, _inside(question, segment) if segment else np.zeros(len(told), dtype=bool))
        scores = foreground_scores(true, told, span=rules.span)
        tiou = temporal_iou(segment, question.segment_s) if segment else 0.0
        found[name] = replace(scores, tiou=tiou)
    answered = [name in answers for name in asked]
    kept_masks = {"masks": CONTROLS.get(control or "", "inside the predicted segment"), **policies(rules)}
    family = f"loombench_combined_{control}" if control else "loombench_combined"
    return foreground_table(family, found, answered, convention, kept_masks)


def _check(name: str, question: LoomQuestion) -> None:
    if question.kind not in KINDS:
        raise EvaluationError(f"{name}: kind {question.kind!r} is not one of {', '.join(KINDS)}.")
    if _segment(question) is None:
        raise EvaluationError(
            f"{name}: segment_s ({question.segment_s!r}) must be two finite numbers of seconds that rise."
        )
    if question.kind == "when":
        return
    times = question.frame_times_s
    if question.masks is None or times is None or np.ndim(times) != 1:
        raise _lacks_masks(name, question)
    if not callable(question.masks):
        _true_masks(name, question)
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise EvaluationError(f"{name}: frame_times_s must be finite and rise from frame to frame.")
    if not _inside(question, question.segment_s).any():
        raise EvaluationError(
            f"{name}: no frame lies in segment_s {question.segment_s!r}; frames run from {times[0]} to {times[-1]} s."
        )


def _segment(said: LoomAnswer | LoomQuestion | None) -> tuple[float, float] | None:
    """The segment as two finite numbers, the start before the end, or ``None``."""
    if said is None or said.segment_s is None:
        return None
    try:
        start_s, end_s = (float(value) for value in said.segment_s)
    except (TypeError, ValueError, OverflowError):
        return None
    return (start_s, end_s) if math.isfinite(start_s) and math.isfinite(end_s) and start_s < end_s else None


def _masks(answer: LoomAnswer | None, shape: tuple[int, ...]) -> NDArray[Any] | None:
    masks = None if answer is None else answer.masks
    try:
        told = masks(shape[1:]) if callable(masks) else masks  # type: ignore[arg-type]
    except MaskError:  # an answer that did not parse
        return None
    return told if is_masks(told) and told.shape == shape else None  # type: ignore[union-attr]


def _true_masks(name: str, question: LoomQuestion) -> NDArray[Any]:
    masks = question.masks() if callable(question.masks) else question.masks
    if not is_masks(masks) or masks.ndim != 3 or _times(question).shape != masks.shape[:1]:  # type: ignore[union-attr]
        raise _lacks_masks(name, question)
    return masks  # type: ignore[return-value]


def _lacks_masks(name: str, question: LoomQuestion) -> EvaluationError:
    return EvaluationError(
        f"{name}: a {question.kind} question needs masks [T, H, W] and frame_times_s [T] of the same frames."
    )


def _times(question: LoomQuestion) -> NDArray[np.float64]:
    assert question.frame_times_s is not None
    return np.asarray(question.frame_times_s, dtype=np.float64)


def _inside(question: LoomQuestion, segment: tuple[float, float]) -> NDArray[np.bool_]:
    """Frames that stand inside ``segment``, its ends included."""
    times = _times(question)
    return (times >= segment[0]) & (times <= segment[1])


def _within(masks: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[Any]:
    """``masks`` [T, H, W] in the frames ``kept`` [T], 0 in the others. Of their own type: bool masks of a video would
    take eight times their memory as int64."""
    return np.where(kept[:, None, None], masks, masks.dtype.type(0))


def _shown_segment(masks: NDArray[Any], question: LoomQuestion) -> tuple[float, float] | None:
    """From the first frame with a mask to the end of the last one, which lasts as long as the usual frame."""
    span, times = masklet_span(masks), _times(question)
    if span is None:
        return None
    lasts_s = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    return float(times[span[0]]), float(times[span[1]]) + lasts_s


def _means(sums: NDArray[np.float64], names: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: 100 * sums[..., 1 + i] / sums[..., 0] for i, name in enumerate(names)}


def _where_figures(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    means = _means(sums, ("j", "f"))
    return {"jf": (means["j"] + means["f"]) / 2, **means}


def _counts(asked: Mapping[str, Any], answers: Mapping[str, Any], parsed: int) -> dict[str, int]:
    answered = sum(name in answers for name in asked)
    return {"questions": len(asked), "answered": answered, "parsed": parsed, "missing": len(asked) - answered}


def _states(
    asked: Mapping[str, Any], answers: Mapping[str, Any], parsed: Sequence[bool]
) -> dict[str, NDArray[np.float64]]:
    """Of each question 0 or 1: whether it was answered, and whether the answer had what the question asks for."""
    answered = [name in answers for name in asked]
    return {name: np.array(flags, dtype=np.float64) for name, flags in (("answered", answered), ("parsed", parsed))}
