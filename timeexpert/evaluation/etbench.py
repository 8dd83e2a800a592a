"""E.T. Bench (Liu et al., 2024): the metrics of its tasks, from the text of answers.

Tasks, by the names of the benchmark: ``tvg`` and ``epm`` (one window), ``tem`` (best of several true windows), ``tal``
and ``vhd``, ``evs``, ``rvq``, ``eca`` and ``rar`` (a choice), ``gvq`` (a choice and a window), ``dvc`` and ``slc``
(captions with windows). Convention ``etbench`` repeats ``compute_metrics.py``; figures are percent of its fractions.
``strict`` reads times and choices with the strict rules of :mod:`.answer_text` and :mod:`.choices`, keeps reversed
windows reversed, computes in float64, and

- ``evs``: measures summaries in exact seconds (there: whole seconds, rounded half to even, the first 1000), and an
  answer that did not parse scores 0 (there: it leaves the mean);
- ``rvq``, ``eca``, ``rar``: a wrong or unreadable letter is wrong (there: the option most like the text is tried
  next. The benchmark compares MiniLM embeddings; without them ``similarity`` is the share of common words).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timeexpert.errors import did_you_mean

from . import answer_text
from .choices import read_choice
from .conventions import chosen, rounded, share
from .errors import MISSING, EvaluationError
from .event_captions import event_captions
from .grounding import moment_retrieval
from .meteor import Meteor
from .multi_segment import multi_segment_f1
from .reference_readings import first_number
from .scores import Figures, Scores, answer_counts
from .tiou import answered_segments, true_segments

Sample = Mapping[str, Any]
Similarity = Callable[[str, Sequence[str]], Sequence[float]]
THRESHOLDS = (0.1, 0.3, 0.5, 0.7)
_LONGEST_S = 1000.0
_DECIMALS = {"strict": None, "etbench": 3}
_KEYS = {  # what the truth of a task is made of, where it is not tgt alone
    **dict.fromkeys(("rvq", "eca", "rar"), ("o",)),
    "gvq": ("o", "tgt"),
    **dict.fromkeys(("dvc", "slc"), ("tgt", "g")),
}


def common_words(text: str, options: Sequence[str]) -> list[float]:
    """Jaccard overlap of the words of ``text`` with those of each option."""
    words = set(text.lower().split())
    others = [set(option.lower().split()) for option in options]
    return [len(words & other) / max(1, len(words | other)) for other in others]


@dataclass(frozen=True)
class _Options:
    convention: str
    similarity: Similarity
    meteor: Meteor | None


def etbench_task(
    task: str,
    samples: Sequence[Sample],
    *,
    convention: str = "strict",
    similarity: Similarity = common_words,
    meteor: Meteor | None = None,
) -> Scores:
    """Score the answers ``samples[i]["a"]`` (text, ``None`` or ``MISSING``; a missing key counts as ``MISSING``).

    ``tgt`` holds the truth: a window, windows, or (``vhd``) windows of several annotators; ``p`` and ``o`` the right
    option and the options; ``g`` captions. ``similarity`` serves the choices of ``etbench``, ``meteor`` captions
    (without it that figure is absent). Raises :class:`EvaluationError` on an unknown task or bad truth.
    """
    if task not in TASKS:
        raise EvaluationError(
            f"E.T. Bench has no task {task!r} with a metric here. Choose one of {', '.join(TASKS)}."
            f"{did_you_mean(task, TASKS)}"
        )
    chosen(_DECIMALS, convention, "E.T. Bench")
    items = [str(sample.get("video", i)) for i, sample in enumerate(samples)]
    for sample, item in zip(samples, items, strict=True):
        for key in _KEYS.get(task, ("tgt",)):
            if not isinstance(sample.get(key), (list, tuple)) or not sample[key]:
                raise EvaluationError(
                    f"truth of {item!r}: {key} ({sample.get(key)!r}) must be a list with something in it. Correct the "
                    "row or leave it out."
                )
        if "g" in _KEYS.get(task, ()) and len(sample["g"]) != len(sample["tgt"]):
            raise EvaluationError(
                f"truth of {item!r}: {len(sample['g'])} captions in g for {len(sample['tgt'])} windows in tgt. Correct "
                "the row or leave it out."
            )
    return TASKS[task](samples, items, _Options(convention, similarity, meteor))


def _read(samples: Sequence[Sample], read: Callable[[str], Any]) -> list[Any]:
    answers = [sample.get("a", MISSING) for sample in samples]
    return [read(a) if isinstance(a, str) else MISSING if a is MISSING else None for a in answers]


def _windows(samples: Sequence[Sample], convention: str) -> list[Any]:
    return _read(samples, lambda text: answer_text.read_segments(text, convention))


def _one_window(samples: Sequence[Sample], items: list[str], options: _Options) -> Scores:
    truth = [s["tgt"] if np.ndim(s["tgt"][0]) else [s["tgt"]] for s in samples]
    told = _windows(samples, options.convention)
    return moment_retrieval(truth, told, items=items, convention=options.convention, thresholds=THRESHOLDS)


def _many_windows(samples: Sequence[Sample], items: list[str], options: _Options) -> Scores:
    told = _windows(samples, options.convention)
    return multi_segment_f1([s["tgt"] for s in samples], told, items=items, convention=options.convention)


def _highlight_moment(samples: Sequence[Sample], items: list[str], options: _Options) -> Scores:
    """Whether the told moment lies in any window of any annotator, ends included: ``f1`` as the benchmark names it."""
    read = first_number if options.convention == "etbench" else answer_text.read_moment
    moments = _read(samples, read)
    truth = [_flat_windows(s["tgt"]) for s in samples]
    segments, counts = true_segments(truth, items)
    owner = np.repeat(np.arange(len(truth)), counts)
    at = np.array([np.nan if m is None or m is MISSING else m for m in moments])[owner]
    inside = (segments[:, 0] <= at) & (at <= segments[:, 1])
    hit = np.bincount(owner, weights=inside, minlength=len(truth)) > 0
    return _mean_scores("etbench_vhd", items, {"f1": hit.astype(np.float64)}, moments, options.convention)


def _summary(samples: Sequence[Sample], items: list[str], options: _Options) -> Scores:
    """F1 of the seconds that the told and the true summary cover."""
    told = _windows(samples, options.convention)
    segments, counts = true_segments([s["tgt"] for s in samples], items)
    whole = options.convention == "etbench"
    f1 = np.zeros(len(samples))
    for i, (windows, true) in enumerate(zip(told, np.split(segments, np.cumsum(counts)), strict=False)):
        if windows is not None and windows is not MISSING:
            predicted = answered_segments(windows)
            f1[i] = _cover_f1(_whole_seconds(predicted), _whole_seconds(true)) if whole else _cover_f1(predicted, true)
    counted = np.array([w is not None and w is not MISSING for w in told], dtype=bool) | (not whole)
    return _mean_scores("etbench_evs", items, {"f1": f1}, told, options.convention, counted)


def _choice(samples: Sequence[Sample], items: list[str], options: _Options) -> Scores:
    places = _read_places(samples, items, options.convention)
    right = np.array([k == s["p"] for k, s in zip(places, samples, strict=True)], dtype=np.float64)
    scorers = {}
    if options.convention == "etbench":
        for i, sample in enumerate(samples):
            if not right[i] and isinstance(sample.get("a"), str):
                texts = [f"({chr(ord('A') + k)}) {option}" for k, option in enumerate(sample["o"])]
                likeness = options.similarity(_behind_prefix(sample["a"]).lower(), texts)
                places[i] = int(np.argmax(likeness))
                right[i] = places[i] == sample["p"]
        scorers = {"similarity": getattr(options.similarity, "__name__", "given")}
    return _mean_scores("etbench_choice", items, {"accuracy": right}, places, options.convention, scorers=scorers)


def _grounded_choice(samples: Sequence[Sample], items: list[str], options: _Options) -> Scores:
    """``accuracy`` of the letter; ``r1_T``, ``r1_mean`` and ``miou`` of the window, 0 where the letter is wrong."""
    places = _read_places(samples, items, options.convention)
    right = np.array([k == s["p"] for k, s in zip(places, samples, strict=True)], dtype=bool)
    told = _windows(samples, options.convention)
    window = moment_retrieval(
        [[s["tgt"]] for s in samples], told, items=items, convention=options.convention, thresholds=THRESHOLDS
    ).per_item["iou"]
    iou = np.where(right, window, 0.0)
    hits = {f"r1_{t:g}": (right & (window >= t)).astype(np.float64) for t in THRESHOLDS}
    values = {"accuracy": right.astype(np.float64), **hits, "miou": iou}
    values["r1_mean"] = np.mean(list(hits.values()), axis=0) if samples else np.zeros(0)
    both = [w if w is None or w is MISSING or k is None else (k, w) for k, w in zip(places, told, strict=True)]
    both = [None if k is None and b is not MISSING else b for k, b in zip(places, both, strict=True)]
    without = sum(bool(r) and w is None for r, w in zip(right, told, strict=True))
    return _mean_scores("etbench_gvq", items, values, both, options.convention, extra={"right_without_window": without})


def _captions(samples: Sequence[Sample], items: list[str], options: _Options) -> Scores:
    events = _read(samples, answer_text.EVENT_READINGS[options.convention])
    truth = [[(*window, text) for window, text in zip(s["tgt"], s["g"], strict=True)] for s in samples]
    return event_captions(truth, events, items=items, convention=options.convention, meteor=options.meteor)


TASKS: Mapping[str, Callable[[Sequence[Sample], list[str], _Options], Scores]] = {
    **dict.fromkeys(("tvg", "epm", "tem"), _one_window),
    "tal": _many_windows,
    "vhd": _highlight_moment,
    "evs": _summary,
    **dict.fromkeys(("rvq", "eca", "rar"), _choice),
    "gvq": _grounded_choice,
    **dict.fromkeys(("dvc", "slc"), _captions),
}


def _mean_scores(
    family: str,
    items: list[str],
    values: Mapping[str, NDArray[np.float64]],
    read: Sequence[Any],
    convention: str,
    counted: NDArray[np.bool_] | None = None,
    scorers: Mapping[str, str] | None = None,
    extra: Mapping[str, int] | None = None,
) -> Scores:
    """Scores whose figures are means of per-item ``values`` in [0, 1] over the ``counted`` items."""
    names = list(values)
    counted = np.ones(len(items), dtype=bool) if counted is None else counted
    columns = np.column_stack([np.ones(len(items)), *values.values()])

    def combine(sums: NDArray[np.float64]) -> Figures:
        means = rounded(share(sums[..., 1:], sums[..., 0]), _DECIMALS[convention])
        return {name: means[..., k] for k, name in enumerate(names)}

    return Scores(
        family=family,
        items=items,
        statistics=np.where(counted[:, None], columns, 0.0),
        combine=combine,
        counts={**answer_counts(read), **(extra or {})},
        per_item=dict(values),
        convention=convention,
        policies={"not_parsed": "wrong" if counted.all() else "left out", "decimals": _DECIMALS[convention]},
        scorers=scorers or {},
    )


def _flat_windows(windows: Sequence[Any]) -> list[tuple[float, float]]:
    return [w for part in windows for w in (part if np.ndim(part[0]) else [part])] if len(windows) else []


def _read_places(samples: Sequence[Sample], items: list[str], convention: str) -> list[Any]:
    for sample, item in zip(samples, items, strict=True):
        if not isinstance(sample.get("p"), int) or not 0 <= sample["p"] < len(sample.get("o", ())) <= 26:
            raise EvaluationError(
                f"truth of {item!r}: p ({sample.get('p')!r}) must be the place of one of at most 26 options in o, "
                "counted from 0. Correct the question or leave it out."
            )
    if convention == "etbench":
        return _read(samples, _letter)
    answers = _read(samples, str)
    return [read_choice(a, s["o"]) if isinstance(a, str) else a for a, s in zip(answers, samples, strict=True)]


def _letter(text: str) -> int | None:
    """``(x)`` anywhere, else the first letter behind "Best Option:" and an opening bracket; -1 for anything else."""
    bracketed = re.search(r"\(([a-z])\)", text, re.IGNORECASE | re.ASCII)
    rest = bracketed[1] if bracketed else _behind_prefix(text)
    return ord(rest[0].lower()) - ord("a") if rest[:1].isascii() and rest[:1].isalpha() else -1


def _behind_prefix(text: str) -> str:
    return re.sub(r"\A\s*best option:\s*", "", text, flags=re.IGNORECASE).strip().lstrip("(").strip()


def _whole_seconds(segments: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.rint(segments), 0.0, _LONGEST_S)


def _cover_f1(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    told, wanted = _covered_s(predicted), _covered_s(true)
    both = told + wanted - _covered_s(np.concatenate([predicted, true]))
    return min(1.0, max(0.0, 2 * both / (told + wanted))) if told > 0 and wanted > 0 and np.isfinite(told) else 0.0


def _covered_s(segments: NDArray[np.float64]) -> float:
    """Seconds that the union of segments covers; reversed ones and ones that are not finite cover none."""
    segments = segments[np.isfinite(segments).all(axis=1) & (segments[:, 1] > segments[:, 0])]
    if not len(segments):
        return 0.0
    segments = segments[np.argsort(segments[:, 0], kind="stable")]
    reached = np.maximum.accumulate(segments[:, 1])
    begins = np.maximum(segments[1:, 0], reached[:-1])
    with np.errstate(over="ignore"):
        return float(segments[0, 1] - segments[0, 0] + np.maximum(reached[1:] - begins, 0.0).sum())
