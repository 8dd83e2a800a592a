"""Figures, counts and differences of evaluations as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from timeexpert.evaluation.file_tasks import FILE_TASKS
from timeexpert.evaluation.oracle import Row
from timeexpert.evaluation.tasks import TASKS

STATED = ("questions", "answered", "parsed", "missing")


def task_tables(document: Mapping[str, Any]) -> Iterator[Table | str]:
    """A table per task of :func:`timeexpert.evaluation.results.to_json`, then in lines what was counted and how."""
    for name, task in document["tasks"].items():
        table = Table(title=escape(name), title_justify="left")
        table.add_column("figure")
        table.add_column("percent", justify="right")
        if task["intervals"] is not None:
            table.add_column("interval", justify="right")
        shown = tuple(f for f in (TASKS | FILE_TASKS)[name].headline if f in task["figures"]) or tuple(task["figures"])
        for figure in shown:
            value = task["figures"].get(figure)
            cells = [figure, "no figure" if value is None else f"{value:.2f}"]
            if task["intervals"] is not None:
                cells.append(_interval(task["intervals"].get(figure)))
            table.add_row(*cells)
        yield table
        if len(task["figures"]) > len(shown):
            yield f"{len(task['figures']) - len(shown)} more figures: --json or -o"
        yield ", ".join(f"{key} {task['counts'][key]}" for key in STATED)
        others = [f"{key} {value}" for key, value in task["counts"].items() if key not in STATED]
        if others:
            yield ", ".join(others)
        scorers = [f"{key} {value}" for key, value in task["scorers"].items()]
        yield ", ".join([f"convention {task['convention']}", *scorers])
        yield from task["notes"]
        yield ""


def print_tables(console: Console, parts: Iterable[Table | str]) -> None:
    """Tables as tables and lines as they are."""
    for part in parts:
        if isinstance(part, str):
            console.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(part)


def difference_tables(compared: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[Table]:
    """A table per task of :func:`timeexpert.evaluation.results.differences`."""
    for name, rows in compared.items():
        table = Table(title=f"{escape(name)}: second minus first")
        table.add_column("figure")
        for title in ("first", "second", "difference", "interval", "share above 0"):
            table.add_column(title, justify="right")
        for figure, row in rows.items():
            numbers = [row["a"], row["b"], row["difference"]]
            cells = ["-" if n is None else f"{n:.2f}" for n in numbers]
            above = row.get("share_above_zero")
            table.add_row(figure, *cells, _interval(row["interval"]), "-" if above is None else f"{above:.3f}")
        yield table


def oracle_table(families: Mapping[str, Sequence[Row]]) -> Table:
    """Per family of reference cases how many references agreed, and the largest difference."""
    titles = ("cases", "references", "agreed", "differ", "fault of it", "no figure", "not covered")
    table = Table("family", *titles, "largest difference")
    for name, rows in families.items():
        states = Counter(row.state for row in rows)
        counts = [states[s] for s in ("agreed", "differs", "fault", "no figure", "not covered")]
        cases = len({(row.file, row.case) for row in rows})
        largest = max((row.largest for row in rows), default=0.0)
        table.add_row(name, str(cases), str(len(rows)), *map(str, counts), f"{largest:.1e}")
    return table


def _interval(interval: Any) -> str:
    return "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
