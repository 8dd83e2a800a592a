"""What each threshold would do: the share of samples dropped, and against labels precision and recall."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from timeexpert.data.records import SampleError, parse_json
from timeexpert.errors import UserError

POINTS = 60
MATCH_S = 0.2  # a found cut is a labelled one within this
MAX_FALSE_ALARMS = 0.05


@dataclass
class Curve:
    """Points over thresholds, rising. ``points``: dicts of threshold, dropped (count), share, or labelled figures."""

    threshold: float
    drops_below: bool
    values: int
    points: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Calibration:
    """A labelled curve. Each point: threshold, precision, recall, false_alarms (a share of the good), found, wrong.

    ``best`` is the point with the highest recall among those with at most ``MAX_FALSE_ALARMS``; of equals the middle.
    ``at`` is the point of the threshold in use.
    """

    what: str
    labelled: int
    faults: int
    drops_below: bool
    points: list[dict[str, float]]
    best: dict[str, float] | None
    at: dict[str, float]


def drop_curve(values: Sequence[float], threshold: float, *, drops_below: bool) -> Curve:
    """How many of ``values`` (one per judged sample) each threshold would drop."""
    ordered = np.sort(np.asarray(values))
    points = []
    for at in _grid(ordered, drops_below):
        below = int(np.searchsorted(ordered, at, side="left"))
        dropped = below if drops_below else len(ordered) - below
        points.append({"threshold": float(at), "dropped": dropped, "share": dropped / len(ordered)})
    return Curve(threshold, drops_below, len(ordered), points)


def calibrate(
    what: str, faulty: Sequence[float], good: Sequence[float], threshold: float, *, drops_below: bool
) -> Calibration:
    """Precision and recall of every threshold, from values of labelled faults and of what has none."""
    bad, fine = np.asarray(faulty, float), np.asarray(good, float)

    def point(at: float) -> dict[str, float]:
        hit = (bad < at) if drops_below else (bad >= at)
        alarm = (fine < at) if drops_below else (fine >= at)
        found, wrong = int(hit.sum()), int(alarm.sum())
        return {
            "threshold": float(at),
            "precision": found / (found + wrong) if found + wrong else 1.0,
            "recall": found / len(bad) if len(bad) else 0.0,
            "false_alarms": wrong / len(fine) if len(fine) else 0.0,
            "found": found,
            "wrong": wrong,
        }

    points = [point(at) for at in _grid(np.concatenate((bad, fine)), drops_below)]
    usable = [p for p in points if p["false_alarms"] <= MAX_FALSE_ALARMS]
    best = None
    if usable and len(bad):
        highest = max((p["recall"], -p["wrong"]) for p in usable)
        equals = [p for p in usable if (p["recall"], -p["wrong"]) == highest]
        best = equals[len(equals) // 2]
    return Calibration(what, len(bad) + len(fine), len(bad), drops_below, points, best, point(threshold))


def _grid(values: np.ndarray, drops_below: bool) -> np.ndarray:
    """Thresholds to try: even steps over 0 to 1 for shares, and even ratios up to the largest for strengths."""
    if drops_below:
        return np.linspace(0.0, 1.0, POINTS + 1)
    top = max(float(values.max(initial=0.0)), 3.0)
    return np.geomspace(0.8, top * 1.01, POINTS)


@dataclass
class Labels:
    """Labelled examples: cut times by video, and whether a sample (by id) is aligned."""

    cuts_s: dict[str, list[float]] = field(default_factory=dict)
    aligned: dict[str, bool] = field(default_factory=dict)


def read_labels(path: str | Path) -> Labels:
    """Lines ``{"video": path, "cuts_s": [seconds]}`` and ``{"id": sample, "aligned": true}``. Raises ``UserError``."""
    labels = Labels()
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file. Give labelled examples, one JSON object per line.")
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    _add(labels, parse_json(line.decode("utf-8")))
                except (SampleError, UnicodeDecodeError) as error:
                    raise UserError(f"{path}:{number}: {error}") from None
    if not labels.cuts_s and not labels.aligned:
        raise UserError(f"{path}: no labels in it. A line is for example {_EXAMPLE}.")
    return labels


_EXAMPLE = '{"video": "a.mp4", "cuts_s": [3.2]} or {"id": "q1", "aligned": false}'


def _add(labels: Labels, row: Any) -> None:
    keys = set(row) if isinstance(row, dict) else set()
    if keys == {"video", "cuts_s"} and isinstance(row["video"], str):
        times = row["cuts_s"]
        good = isinstance(times, list) and all(isinstance(t, (int, float)) and not isinstance(t, bool) for t in times)
        if good and all(t >= 0 for t in times):
            labels.cuts_s[row["video"]] = sorted(float(t) for t in times)
            return
    if keys == {"id", "aligned"} and isinstance(row["id"], str) and isinstance(row["aligned"], bool):
        labels.aligned[row["id"]] = row["aligned"]
        return
    raise SampleError(f"a label must be {_EXAMPLE}; this is {str(row)[:120]}.")


def match_cuts(
    found: Iterable[tuple[float, float]], labelled_s: Sequence[float], steps: int
) -> tuple[list[float], list[float]]:
    """(strength of each labelled cut, strengths of all other steps) of one clip.

    A labelled cut takes the strongest candidate within ``MATCH_S``, or 0 where there is none. Steps without a candidate
    count as 0: ``steps`` is how many the clip has.
    """
    left = sorted(found, key=lambda row: -row[1])
    hits = []
    for label_s in labelled_s:
        near = next((row for row in left if abs(row[0] - label_s) <= MATCH_S), None)
        hits.append(near[1] if near else 0.0)
        if near:
            left.remove(near)
    others = [strength for _, strength in left]
    return hits, others + [0.0] * max(0, steps - len(hits) - len(others))
