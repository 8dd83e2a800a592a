"""What each question of LoomBench scored, a line of JSON per question and table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .loombench import ROWS
from .results import Scored

PER_QUESTION = "per_question.jsonl"
_KINDS = {row.name: row.kind for row in ROWS}
_STATES = ("answered", "parsed")


def per_question(scored: Mapping[str, Scored]) -> Iterator[dict[str, Any]]:
    """``task``, ``id``, ``kind``, whether it was ``answered`` and ``parsed``, and the figures of the task in percent.

    Tasks that are not LoomBench's give no row. The mean of a figure over the rows of a task is that of the table;
    ``jf_bi_fore`` has the mean ``jf_bi_fore_question_mean`` there.
    """
    for task, one in scored.items():
        if task not in _KINDS:
            continue
        values = one.scores.per_item
        for place, item in enumerate(one.scores.items):
            states = {name: bool(values[name][place]) for name in _STATES}
            figures = {name: float(column[place]) for name, column in values.items() if name not in _STATES}
            yield {"task": task, "id": item, "kind": _KINDS[task], **states, **figures}


def write_per_question(folder: Path, scored: Mapping[str, Scored]) -> bool:
    """Write :func:`per_question` into ``folder``, atomically; whether there was a row.

    Without one, a file of an earlier scoring is removed: it would belong to other figures.
    """
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in per_question(scored)]
    path = folder / PER_QUESTION
    if not lines:
        path.unlink(missing_ok=True)
        return False
    temporary = path.with_name(path.name + ".part")
    temporary.write_text("".join(lines), encoding="utf-8")
    os.replace(temporary, path)
    return True
