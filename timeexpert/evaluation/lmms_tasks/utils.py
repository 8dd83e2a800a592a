"""Functions that the task files name: lmms-eval asks the server, our parser and metrics read the answers.

A row of the data is a sample as ``timeexpert data convert`` writes it. lmms-eval hands every answer to
:func:`process_results` and the list of what it returned to one aggregation per figure.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from timeexpert.data.records import Sample
from timeexpert.evaluation.records import Told
from timeexpert.evaluation.tasks import score_task, task_named

MEDIA = "TIMEEXPERT_MEDIA"
FAILED = "[LMMS_EVAL_"  # begins the text that stands for an answer where a request failed: nothing was answered


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The path of the video, below the folder that the environment variable names."""
    folder = os.environ.get(MEDIA)
    if not folder:
        raise SystemExit(f"set {MEDIA} to the folder that holds the videos, the one that the server was opened for.")
    path = Path(folder).resolve() / doc["video"]
    if not path.is_file():
        raise SystemExit(f"{path}: no such video. Put it there, or correct {MEDIA}.")
    return [str(path)]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    """The question."""
    return str(doc["prompt"])


def doc_to_messages(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[dict[str, Any]]:
    """One message: the video, then the question."""
    video = [{"type": "video", "url": path} for path in doc_to_visual(doc)]
    return [{"role": "user", "content": [*video, {"type": "text", "text": doc_to_text(doc)}]}]


def doc_to_target(doc: Mapping[str, Any]) -> str:
    """The truth, for the log of samples."""
    return json.dumps(doc["events"])


def _process(task: str, figures: Sequence[str]) -> Callable[[Mapping[str, Any], Sequence[str]], dict[str, Any]]:
    def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """The row and its answer, once for each figure."""
        names = ("id", "video", "task", "prompt", "events", "duration_s")
        row = json.dumps({name: doc.get(name) for name in names} | {"meta": _meta(doc.get("meta"))})
        return dict.fromkeys(figures, (row, str(results[0]) if results else ""))

    process_results.__name__ = f"process_{task}"
    return process_results


def _meta(value: Any) -> dict[str, Any]:
    """``meta`` without the empty fields that loading gives to rows which lack what another row has."""
    return {k: v for k, v in (value or {}).items() if v is not None}


@lru_cache(maxsize=8)
def _figures(task: str, items: tuple[tuple[str, str], ...]) -> dict[str, float | None]:
    """All figures at once: lmms-eval asks for them one by one."""
    samples = [Sample.from_json(json.loads(row)) for row, _ in items]
    told = [None if text.startswith(FAILED) else Told(text=text, from_text=True) for _, text in items]
    return score_task(task_named(task), samples, told).figures()


def _figure(task: str, name: str) -> Callable[[Sequence[Any]], float]:
    def aggregate(items: Sequence[Any]) -> float:
        """One figure in percent; NaN where there is none."""
        value = _figures(task, tuple((row, text) for row, text in items)).get(name)
        return float("nan") if value is None else value

    aggregate.__name__ = f"{task}_{name}".replace(".", "_")
    return aggregate


MOMENTS = ("r1_0.3", "r1_0.5", "r1_0.7", "miou")
WINDOWS = ("map", "map_0.5", "map_0.75", "r1_0.5", "r1_0.7")
CAPTIONS = ("f1", "precision", "recall")
process_moments, process_windows, process_captions = (
    _process(task, figures)
    for task, figures in (("moment_retrieval", MOMENTS), ("moment_map", WINDOWS), ("dense_captioning", CAPTIONS))
)
r1_3, r1_5, r1_7, miou = (_figure("moment_retrieval", name) for name in MOMENTS)
window_map, window_map_50, window_map_75, window_r1_5, window_r1_7 = (_figure("moment_map", name) for name in WINDOWS)
caption_f1, caption_precision, caption_recall = (_figure("dense_captioning", name) for name in CAPTIONS)
