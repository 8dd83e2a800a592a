"""What the steps cost: rows of ``cost.jsonl``, and their sums."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from timeexpert.data.endpoint import Endpoint, EndpointConfig
from timeexpert.data.sample_lines import write_row

COUNTED = ("requests", "from_cache", "failed", "retries", "prompt_tokens", "completion_tokens", "without_usage")
EVERY_S = 10.0


class StepCost:
    """Appends to ``path`` what one step costs: a row at its end, and in a longer one with the first video that is done
    ``EVERY_S`` seconds after the row before, so that a run that is killed loses little. Rows hold what came since the
    row before.
    """

    def __init__(self, path: Path, step: str, endpoint: Endpoint) -> None:
        self._path, self._step, self._endpoint = path, step, endpoint
        self._counts, self._usage, self._since = Counter[str](), asdict(endpoint.usage), time.perf_counter()

    def add(self, *, frames: int = 0, refused: bool = False) -> None:
        """One more video, and how many of its frames were looked at."""
        self._counts.update(videos=1, refused=int(refused), frames=frames)
        if time.perf_counter() - self._since >= EVERY_S:
            self.write()

    def write(self) -> None:
        """Append a row."""
        now, usage = time.perf_counter(), asdict(self._endpoint.usage)
        done = {name: self._counts[name] for name in ("videos", "refused", "frames")}
        spent = {name: usage[name] - self._usage[name] for name in COUNTED}
        cost = {"cost": money(spent, self._endpoint.config), "seconds": round(now - self._since, 3)}
        with open(self._path, "a", encoding="utf-8") as file:
            write_row(file, {"step": self._step, **done, **spent, **cost})
        self._counts, self._usage, self._since = Counter(), usage, now


def money(spent: Mapping[str, int], config: EndpointConfig) -> float | None:
    """What these tokens cost; ``None`` where that is not known: without prices, or where an answer had no ``usage``."""
    if not spent["requests"]:
        return 0.0
    prompt, completion = config.price_per_million_prompt_tokens, config.price_per_million_completion_tokens
    if prompt is None or completion is None or spent["without_usage"]:
        return None
    return (spent["prompt_tokens"] * prompt + spent["completion_tokens"] * completion) / 1e6


def total_cost(path: Path) -> dict[str, dict[str, Any]]:
    """Sums of the rows of ``cost.jsonl`` by step; ``None`` where a part is not known."""
    totals: dict[str, dict[str, Any]] = {}
    for row in _rows(path):
        step = totals.setdefault(str(row.pop("step")), {})
        for name, value in row.items():
            before = step.get(name, 0)
            step[name] = None if before is None or value is None else round(before + value, 9)
    return totals


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield dict(json.loads(line))
        except ValueError:  # a kill cut the last row short
            continue
