"""Action segmentation: frame accuracy, Edit, and F1 at segment overlaps of 10, 25 and 50 percent.

Definitions: Lea et al., "Temporal Convolutional Networks for Action Segmentation and Detection" (CVPR 2017), as
MS-TCN computes them (``yabufarha/ms-tcn``, ``eval.py``). Accuracy counts frames of all videos together. Edit is
the mean over videos of 1 - Levenshtein distance / longer length between the lists of segments. F1 sums found
(tp), wrong (fp) and overlooked (fn) segments over all videos first. Segments of the background are left out of
Edit and F1, and its frames are part of ``accuracy`` but not of ``accuracy_foreground``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .conventions import chosen, policies
from .errors import EvaluationError
from .frame_labels import BACKGROUND, FrameLabels
from .scores import Scores

OVERLAPS = (0.1, 0.25, 0.5)
COLUMNS = ("videos", "frames", "correct", "foreground", "foreground_correct", "edit", "predicted", "true") + tuple(
    f"found_{overlap}" for overlap in OVERLAPS
)


@dataclass(frozen=True)
class Convention:
    """Where readings differ.

    ``one_to_one``: as many segments are found as can be paired one to one. Without it each predicted segment may
    take only the true one that it overlaps most, and is wrong where an earlier one took it. ``empty_edit`` is the
    Edit (percent) of a video without a segment on both sides, ``empty_f1`` the F1 where there is nothing to find
    and nothing found; ``None``: no figure.
    """

    one_to_one: bool = True
    empty_edit: float | None = 100.0
    empty_f1: float | None = None


CONVENTIONS = {
    "strict": Convention(),
    "ms_tcn": Convention(one_to_one=False, empty_edit=None, empty_f1=0.0),
}


def action_segmentation(
    truth: Mapping[str, FrameLabels],
    predictions: Mapping[str, FrameLabels | None],
    *,
    background: tuple[str, ...] = (BACKGROUND,),
    convention: str = "strict",
) -> Scores:
    """Score the frame labels of each video of ``truth``.

    A video that is not in ``predictions`` is missing and ``None`` did not parse; both score 0 in everything. Frames
    past the end of the truth count in no accuracy, but segments keep them; frames that were not predicted are wrong.
    Predicted videos that are not in the truth are counted (``unknown``) and not scored.

    Figures, percent: ``accuracy``, ``accuracy_foreground``, ``edit``, ``f1_0.1``, ``f1_0.25``, ``f1_0.5``.
    Statistics have the columns :data:`COLUMNS`, one row per video. Raises :class:`EvaluationError` where a true
    video has no frame and for an unknown convention.
    """
    rules = chosen(CONVENTIONS, convention, "action segmentation")
    items = list(truth)
    table = np.zeros((len(items), len(COLUMNS)))
    nothing = FrameLabels((), ())
    for row, name in zip(table, items, strict=True):
        if not truth[name].num_frames:
            raise EvaluationError(f"{name}: the truth has no frame (0); a video has 1 or more. Leave such videos out.")
        row[:] = _video(truth[name], predictions.get(name) or nothing, frozenset(background), rules)
    missing = [name for name in items if name not in predictions]
    parsed = [name for name in items if predictions.get(name) is not None]
    per_item = {
        name: values for name, values in _figures(table, rules).items() if not name.startswith("f1") or name == "f1_0.5"
    }
    return Scores(
        family="action_segmentation",
        items=items,
        statistics=table,
        combine=lambda sums: _figures(sums, rules),
        counts={
            "questions": len(items),
            "answered": len(items) - len(missing),
            "parsed": len(parsed),
            "missing": len(missing),
            "unknown": sum(name not in truth for name in predictions),
            "shorter": sum(predictions[n].num_frames < truth[n].num_frames for n in parsed),  # type: ignore[union-attr]
            "longer": sum(predictions[n].num_frames > truth[n].num_frames for n in parsed),  # type: ignore[union-attr]
        },
        per_item=per_item,
        convention=convention,
        policies={**policies(rules), "background": list(background)},
    )


def _figures(sums: NDArray[np.float64], rules: Convention) -> dict[str, NDArray[np.float64]]:
    column = {name: sums[..., i] for i, name in enumerate(COLUMNS)}
    with np.errstate(divide="ignore", invalid="ignore"):
        figures = {
            "accuracy": 100 * column["correct"] / column["frames"],
            "accuracy_foreground": 100 * column["foreground_correct"] / column["foreground"],
            "edit": column["edit"] / column["videos"],
        }
        for overlap in OVERLAPS:
            f1 = 200 * column[f"found_{overlap}"] / (column["predicted"] + column["true"])
            nothing = np.nan if rules.empty_f1 is None else rules.empty_f1
            figures[f"f1_{overlap}"] = np.where(column["predicted"] + column["true"] > 0, f1, nothing)
    return figures


def _video(truth: FrameLabels, predicted: FrameLabels, background: frozenset[str], rules: Convention) -> list[float]:
    """One row of statistics."""
    index = {name: i for i, name in enumerate(dict.fromkeys((*truth.names, *predicted.names)))}
    in_front = np.array([name not in background for name in index])
    y, y_end = np.array([index[name] for name in truth.names]), np.array(truth.ends)
    p, p_end = np.array([index[name] for name in predicted.names], dtype=int), np.array(predicted.ends, dtype=int)
    y_front, p_front = in_front[y], in_front[p]
    frames, foreground = truth.num_frames, int(np.diff(y_end, prepend=0)[y_front].sum())
    true, told = int(y_front.sum()), int(p_front.sum())
    row = [1.0, frames, 0.0, foreground, 0.0, _edit(p[p_front], y[y_front], rules), told, true, 0.0, 0.0, 0.0]
    if not len(p):
        return row
    # Stretches in which neither side changes. Two segments meet in one stretch at most, which is their intersection.
    cuts = np.union1d(y_end, p_end)
    cuts = cuts[cuts <= min(frames, predicted.num_frames)]
    lengths = np.diff(cuts, prepend=0)
    i, j = np.searchsorted(y_end, cuts), np.searchsorted(p_end, cuts)
    same = y[i] == p[j]
    front = same & y_front[i]
    row[2], row[4] = lengths[same].sum(), lengths[front].sum()
    i, j, shared = i[front], j[front], lengths[front]
    starts = [np.concatenate([[0], ends[:-1]]) for ends in (y_end, p_end)]
    iou = shared / (np.maximum(y_end[i], p_end[j]) - np.minimum(starts[0][i], starts[1][j]))
    count = _paired if rules.one_to_one else _first_choices
    row[-len(OVERLAPS) :] = [count(i, j, iou, overlap) for overlap in OVERLAPS]
    return row


def _first_choices(i: NDArray[np.int64], j: NDArray[np.int64], iou: NDArray[np.float64], overlap: float) -> int:
    """True segments ``i`` that are what some predicted segment ``j`` overlaps most (ties: the earlier one)."""
    order = np.lexsort((i, -iou, j))
    i, j, iou = i[order], j[order], iou[order]
    first = np.ones(len(j), dtype=bool)
    first[1:] = j[1:] != j[:-1]
    return len(np.unique(i[first & (iou >= overlap)]))


def _paired(i: NDArray[np.int64], j: NDArray[np.int64], iou: NDArray[np.float64], overlap: float) -> int:
    """The largest number of one-to-one pairs.

    Stretches are in order of time, and of two segments that meet only one reaches into the next stretch. So taking
    each pair as early as it comes loses nothing: at most one later pair needs what it took.
    """
    found, last_i, last_j = 0, -1, -1
    for a, b in zip(i[iou >= overlap].tolist(), j[iou >= overlap].tolist(), strict=True):
        if a != last_i and b != last_j:
            found, last_i, last_j = found + 1, a, b
    return found


def _edit(p: NDArray[np.int64], y: NDArray[np.int64], rules: Convention) -> float:
    longer = max(len(p), len(y))
    if not longer:
        return float("nan") if rules.empty_edit is None else rules.empty_edit
    return (1 - levenshtein(p, y) / longer) * 100


def levenshtein(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Fewest insertions, deletions and substitutions that turn ``a`` into ``b``; the longer one is vectorised."""
    short, long = sorted((a, b), key=len)
    ramp = np.arange(len(long) + 1)
    row = ramp.copy()
    for symbol in short:
        # All but insertions, then these: row[k] + (i - k), smallest over k <= i.
        best = row + 1
        np.minimum(best[1:], row[:-1] + (long != symbol), out=best[1:])
        row = np.minimum.accumulate(best - ramp) + ramp
    return int(row[-1])
