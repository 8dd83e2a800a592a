"""Video object segmentation: J, F and J&F of a data set, with given objects or with proposals that are assigned.

Definitions: DAVIS 2017 (``davis2017/evaluation.py``, ``davis2017/utils.py``): per object the mean over frames, the
recall (share of frames above 0.5) and the decay (mean of the first quarter less that of the last one); then the mean
over all objects of all sequences. J&F is the mean of J's and F's means. Unsupervised: proposals are assigned to objects
one to one so that the sum of the mean (J + F) / 2 is largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .assignment import assign
from .conventions import chosen, policies
from .errors import EvaluationError
from .masks import frame_scores, pair_scores
from .scores import Scores

Task = Literal["semi_supervised", "unsupervised"]
VOID = 255  # in a label map: neither object nor background
MAX_PROPOSALS = 20
MAX_OBJECTS = 1000
STATISTICS = ("j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay")
_FRAMES_OF_AN_OBJECT = 5  # looked at together: five of 480 x 854 stay in the processor's cache
_FRAMES_OF_ALL = 8  # of all proposals, which are in memory together
_FEW_LABELS = 32


@dataclass(frozen=True)
class Convention:
    """Where readings differ.

    ``drop_ends``: with given objects, the first and the last frame are not scored (the reference's harness; the first
    one is given to the model). ``objects_of_first_frame``: objects that a label map shows only later are not scored.
    ``byte_edges``: the decay's quarters are cut at frame numbers modulo 256, so that more than 255 frames give a wrong
    decay or none.
    """

    drop_ends: bool = False
    objects_of_first_frame: bool = False
    byte_edges: bool = False


CONVENTIONS = {
    "strict": Convention(),
    "davis": Convention(drop_ends=True, objects_of_first_frame=True, byte_edges=True),
}


@dataclass(frozen=True, eq=False)
class ObjectScores:
    """``j`` and ``f`` [O, T] in [0, 1], one row per true object; ``proposals[o]`` is the predicted object (from 0) that
    was compared with object o, from the number of predicted objects on where there was none left. ``extra`` predicted
    objects were compared with none."""

    j: NDArray[np.float64]
    f: NDArray[np.float64]
    proposals: list[int]
    extra: int = 0


def object_scores(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    void: NDArray[Any] | None = None,
    *,
    task: Task = "semi_supervised",
    num_objects: int | None = None,
) -> ObjectScores:
    """J and F per object and frame of one sequence.

    ``truth`` and ``predicted`` are label maps [T, H, W] of integers (0 background, k object k, 255 void) or stacks
    [O, T, H, W] of masks. ``void`` [T, H, W] is where nothing counts, besides what a true label map says.
    Semi-supervised: object k against predicted object k. Unsupervised: against the assigned one of the first 20.
    Raises :class:`EvaluationError` where frames, rows and columns differ or the truth has no object.
    """
    if truth.ndim == 3 and (truth == VOID).any():
        void = (truth == VOID) if void is None else (void != 0) | (truth == VOID)
    ids = _ids(truth) if num_objects is None else range(num_objects)
    if not len(ids):
        raise EvaluationError("the truth has no object (0); a sequence needs 1 or more. Leave such sequences out.")
    count = max(ids) + 1
    frames, size = truth.shape[-3], truth.shape[-3:]
    if predicted.shape[-3:] != size:
        raise EvaluationError(f"predicted masks of {predicted.shape[-3:]} need the {size} frames, rows and columns.")
    told = _ids(predicted)
    if task == "semi_supervised":
        j, f = np.empty((count, frames)), np.empty((count, frames))
        for now in _chunks(frames, _FRAMES_OF_AN_OBJECT):
            nothing = np.zeros(truth[..., now, :, :].shape[-3:], dtype=bool)
            for o in range(count):
                there = _object(predicted, o, now) if o in told else nothing
                j[o, now], f[o, now] = frame_scores(_object(truth, o, now), there, None if void is None else void[now])
        return ObjectScores(j, f, list(range(count)), sum(i >= count for i in told))
    used = told[:MAX_PROPOSALS]
    padding = max(count - len(used), 0)
    parts = []
    for now in _chunks(frames, _FRAMES_OF_ALL):
        spare = [np.zeros(truth[..., now, :, :].shape[-3:], dtype=bool)] * padding
        true = np.stack([_object(truth, o, now) for o in range(count)])
        proposed = np.stack([*(_object(predicted, i, now) for i in used), *spare])
        parts.append(pair_scores(true, proposed, None if void is None else void[now]))
    j, f = (np.concatenate([part[side] for part in parts], axis=-1) for side in (0, 1))
    rows, columns = assign((j.mean(axis=2) + f.mean(axis=2)) / 2)
    row_of = dict(zip(columns, rows, strict=True))
    taken = [row_of[o] for o in range(count)]
    proposals = [used[row] if row < len(used) else row - len(used) + max(told, default=-1) + 1 for row in taken]
    of = range(count)
    return ObjectScores(j[taken, of], f[taken, of], proposals, len(told) - sum(row < len(used) for row in taken))


def sequence_statistics(values: NDArray[np.float64], *, byte_edges: bool = False) -> tuple[float, float, float]:
    """Mean, recall and decay of one object's J or F over frames [T]; a decay of NaN where a quarter has no frame."""
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    stops = edges + 1
    if byte_edges:
        edges, stops = edges % 256, (edges % 256 + 1) % 256
    first, last = values[edges[0] : stops[1]], values[edges[3] : stops[4]]
    decay = first.mean() - last.mean() if len(first) and len(last) else np.nan
    return float(values.mean()), float((values > 0.5).mean()), float(decay)


def video_object_segmentation(
    truth: Mapping[str, NDArray[Any]],
    predictions: Mapping[str, NDArray[Any] | None],
    *,
    task: Task = "semi_supervised",
    convention: str = "strict",
) -> Scores:
    """Score the masks of each sequence of ``truth``; arrays as in :func:`object_scores`.

    The mappings are asked for one sequence at a time, so they may read files when asked (:class:`.MaskFolder`).
    A sequence that is not in ``predictions`` is missing; ``None``, or an array of another size, did not parse; both
    score 0 in every frame. Figures, percent: ``jf``, ``j_mean``, ``j_recall``, ``j_decay``, ``f_mean``, ``f_recall``,
    ``f_decay``. Raises :class:`EvaluationError` for a true sequence that cannot be scored and an unknown convention.
    """
    rules = chosen(CONVENTIONS, convention, "video object segmentation")
    if task not in ("semi_supervised", "unsupervised"):
        raise EvaluationError(f"task {task!r} is not one of semi_supervised, unsupervised.")
    items = list(truth)
    table = np.zeros((len(items), 1 + len(STATISTICS)))
    counts = dict.fromkeys(("questions", "answered", "parsed", "missing", "objects", "frames", "extra_objects"), 0)
    counts["questions"] = len(items)
    for row, name in zip(table, items, strict=True):
        true, count = _true_sequence(name, truth[name], task, rules)
        answered = name in predictions
        told = _usable(predictions[name], true, task, rules) if answered else None
        if told is None:
            scores = ObjectScores(np.zeros((count, true.shape[-3])), np.zeros((count, true.shape[-3])), [])
        else:
            scores = object_scores(true, told, task=task, num_objects=count)
        counts["answered"] += answered
        counts["missing"] += not answered
        counts["parsed"] += told is not None
        counts["objects"] += count
        counts["frames"] += count * true.shape[-3]
        counts["extra_objects"] += scores.extra
        row[0] = count
        for j, f in zip(scores.j, scores.f, strict=True):
            row[1:] += [*sequence_statistics(j, byte_edges=rules.byte_edges),
                        *sequence_statistics(f, byte_edges=rules.byte_edges)]  # fmt: skip
    figures = _figures(table)
    return Scores(
        family="video_object_segmentation",
        items=items,
        statistics=table,
        combine=_figures,
        counts=counts,
        per_item={name: figures[name] for name in ("jf", "j_mean", "f_mean")},
        convention=convention,
        policies={**policies(rules), "task": task, "missing": "zero", "max_proposals": MAX_PROPOSALS},
    )


def _figures(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    with np.errstate(divide="ignore", invalid="ignore"):
        means = {name: 100 * sums[..., 1 + i] / sums[..., 0] for i, name in enumerate(STATISTICS)}
    return {"jf": (means["j_mean"] + means["f_mean"]) / 2, **means}


def _true_sequence(name: str, masks: Any, task: Task, rules: Convention) -> tuple[NDArray[Any], int]:
    """The frames to score and the number of objects."""
    if not is_masks(masks):
        raise EvaluationError(
            f"{name}: the truth ({_kind(masks)}) must be a label map [T, H, W] or masks [O, T, H, W] of numbers, "
            "with 1 or more of each."
        )
    shown = masks[:1] if rules.objects_of_first_frame and masks.ndim == 3 else masks
    ids = _ids(shown)
    if not len(ids):
        raise EvaluationError(f"{name}: the truth has no object (0); 1 or more are needed. Leave such sequences out.")
    if max(ids) >= MAX_OBJECTS:
        raise EvaluationError(
            f"{name}: the truth has an object {max(ids) + 1}; objects are numbered 1 to {MAX_OBJECTS}."
        )
    kept = _kept(masks, task, rules)
    if not kept.shape[-3]:
        raise EvaluationError(f"{name}: {masks.shape[-3]} frames are 0 without the first and the last; 3 are needed.")
    return kept, max(ids) + 1


def _usable(masks: Any, true: NDArray[Any], task: Task, rules: Convention) -> NDArray[Any] | None:
    if not is_masks(masks):
        return None
    kept = _kept(masks, task, rules)
    return kept if kept.shape[-3:] == true.shape[-3:] else None


def _kept(masks: NDArray[Any], task: Task, rules: Convention) -> NDArray[Any]:
    return masks[..., 1:-1, :, :] if rules.drop_ends and task == "semi_supervised" else masks


def is_masks(masks: Any) -> bool:
    """Whether ``masks`` is an array of masks at all: numbers, [T, H, W] or [O, T, H, W], T, H and W from 1."""
    return (
        isinstance(masks, np.ndarray)
        and masks.dtype.kind in "buif"
        and masks.ndim in (3, 4)
        and 0 not in masks.shape[-3:]
    )


def _kind(masks: Any) -> str:
    return f"{masks.dtype} {masks.shape}" if isinstance(masks, np.ndarray) else type(masks).__name__


def _ids(masks: NDArray[Any]) -> list[int]:
    """Objects of a label map or of a stack, from 0."""
    if masks.ndim == 4:
        return list(range(len(masks)))
    if masks.dtype == np.uint8:
        highest = int(masks.max())
        highest = highest if highest < VOID else int(np.where(masks == VOID, 0, masks).max())
        if highest <= _FEW_LABELS:  # most are in the first frame, which ends the search for them
            labels = np.array([k for k in range(1, highest + 1) if any((frame == k).any() for frame in masks)])
        else:
            labels = np.flatnonzero(np.bincount(masks.ravel(), minlength=256))
    elif masks.dtype == np.bool_:
        labels = np.arange(1 + masks.any())
    else:
        labels = np.unique(masks).astype(np.float64)
        labels = labels[np.abs(labels) < 2**31]  # nor NaN
        labels = labels[labels == np.round(labels)]
    return [int(label) - 1 for label in labels if label > 0 and label != VOID]


def _chunks(frames: int, at_once: int) -> list[slice]:
    return [slice(begin, begin + at_once) for begin in range(0, frames, at_once)]


def _object(masks: NDArray[Any], index: int, frames: slice = slice(None)) -> NDArray[Any]:
    return masks[index, frames] if masks.ndim == 4 else masks[frames] == index + 1
