"""Reads what the trainer writes to a run folder, as far as it got: a killed run has a torn last line, a young
one has no evaluation yet. What cannot be read is left out and said in ``notes``, never silently."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from .errors import ReportError

Record = dict[str, Any]
MAX_LINE_BYTES = 8 << 20  # one record of 28 layers and 64 experts takes about 100 kB
MAX_NOTES = 8
MAX_EXPERT_RECORDS = 400  # of 28 layers and 64 experts these take about 150 MB
KINDS = ("train", "experts", "eval", "expert_edit", "nonfinite", "drawn")


@dataclass
class RunFiles:
    """The records of one run by kind, in the order written, and what was wrong with the files."""

    path: Path
    train: list[Record] = field(default_factory=list)
    experts: list[Record] = field(default_factory=list)
    evals: list[Record] = field(default_factory=list)
    edits: list[Record] = field(default_factory=list)
    summary: Record = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def stages(self) -> list[str]:
        """Stage names in the order in which they first appear."""
        rows = (*self.train, *self.experts, *self.evals, *self.edits)
        named = [str(s.get("name")) for s in records_in(self.summary.get("stages"))]
        return list(dict.fromkeys([*(stage_of(r) for r in rows), *named]))


def read_run(path: str | Path) -> RunFiles:
    """Read ``metrics.jsonl`` and ``summary.json`` of a run. Raises :class:`ReportError` if it is no folder."""
    run = RunFiles(Path(path))
    if not run.path.is_dir():
        raise ReportError(f"{path}: no such run folder. Give the folder that training wrote, with its metrics.jsonl.")
    metrics = run.path / "metrics.jsonl"
    lists = {"train": run.train, "experts": run.experts, "eval": run.evals, "expert_edit": run.edits}
    if metrics.is_file():
        thinned = False
        for number, row in read_lines(metrics, run.notes):
            if row.get("kind") in lists:
                lists[row["kind"]].append(row)
                if len(run.experts) > MAX_EXPERT_RECORDS:
                    run.experts[:] = _every_second(run.experts)
                    thinned = True
            elif row.get("kind") == "nonfinite":
                where = f"step {row.get('step')} of stage {stage_of(row)}"
                add_note(
                    run.notes, f"{where} was skipped: {row.get('problem')}; metrics.jsonl:{number} has its questions."
                )
            elif row.get("kind") != "drawn":  # what each step drew: many rows, and no chart
                add_note(
                    run.notes, f"metrics.jsonl:{number}: kind ({row.get('kind')!r}) is none of {', '.join(KINDS)}."
                )
        if thinned:
            run.notes.append(f"only {len(run.experts)} expert records, evenly chosen, are used: there are many.")
        if not any(lists.values()):
            run.notes.append("metrics.jsonl holds no records yet.")
    else:
        run.notes.append("there is no metrics.jsonl yet: nothing has been trained in this folder.")
    summary = run.path / "summary.json"
    if summary.is_file():
        try:
            loaded = json.loads(summary.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            run.notes.append(f"summary.json could not be read ({error}); figures come from metrics.jsonl.")
        else:
            run.summary = loaded if isinstance(loaded, dict) else {}
    return run


def _every_second(rows: list[Record]) -> list[Record]:
    """Half of the records, but the last of each stage stays."""
    ends = {i for i in range(len(rows)) if i + 1 == len(rows) or stage_of(rows[i]) != stage_of(rows[i + 1])}
    return [row for i, row in enumerate(rows) if i % 2 == 0 or i in ends]


def read_lines(path: Path, notes: list[str]) -> Iterator[tuple[int, Record]]:
    """(line number, object) of each line of a ``.jsonl`` file; lines that are none are put into ``notes``."""
    with open(path, "rb") as lines:
        number = 0
        while line := lines.readline(MAX_LINE_BYTES):
            number += 1
            if not line.strip():
                continue
            whole = line.endswith(b"\n")
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                why = "is not JSON" if whole else "is cut off (the writer was stopped)"
                add_note(notes, f"{path.name}:{number}: the line {why} and is left out.")
                while not whole and len(line) == MAX_LINE_BYTES:  # skip the rest of an overlong line
                    line = lines.readline(MAX_LINE_BYTES)
                    whole = line.endswith(b"\n")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                add_note(notes, f"{path.name}:{number}: the line is not an object and is left out.")


def add_note(notes: list[str], text: str) -> None:
    """Append ``text``, but after MAX_NOTES only count."""
    if len(notes) < MAX_NOTES:
        notes.append(text)
    elif notes[-1].endswith(" more problems."):
        notes[-1] = f"{int(notes[-1].split()[0]) + 1} more problems."
    else:
        notes.append("1 more problems.")


def number(row: Record, key: str) -> float | None:
    """``row[key]`` as a float; ``None`` where it is absent, no number, NaN or infinite."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 1e300 and isfinite(value) else None


def numbers(value: Any) -> list[float] | None:
    """A list of finite numbers as floats, or ``None`` if it is anything else."""
    if not isinstance(value, list):
        return None
    out = [number({"v": v}, "v") for v in value]
    return None if None in out else [v for v in out if v is not None]


def records_in(value: Any) -> list[Record]:
    """The objects of a list; nothing of anything else."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def stage_of(row: Record) -> str:
    """The stage a record belongs to."""
    return str(row.get("stage", "?"))
