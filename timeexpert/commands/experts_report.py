"""``timeexpert experts report RUN``: which experts a run uses, for what, and which are dead."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from timeexpert.reports.expert_weights import ExpertWeights
    from timeexpert.reports.experts import ExpertReport, Snapshot

HELP = "show how the experts of a run are used: load, dead experts, token types, experts added and removed"
SHOWN_ROWS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert experts report``."""
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run folder with its metrics.jsonl, or one of its models or checkpoints"
    )
    parser.add_argument("--html", type=Path, metavar="OUT", help="also write an HTML page to this file")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--stage", help="only this stage (default: all stages; tables show the last record)")
    parser.add_argument(
        "--no-similarity", action="store_true", help="do not compare the experts' weights (reads the whole checkpoint)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; returns the exit code."""
    from timeexpert.reports.expert_findings import measured_ks
    from timeexpert.reports.expert_sources import read_experts
    from timeexpert.reports.experts_page import experts_page
    from timeexpert.reports.style import write_html

    report, weights = read_experts(args.run, args.stage, similarity=not args.no_similarity)
    if args.html is not None:
        write_html(args.html, experts_page(report, weights))
    if args.json:
        seen = None if weights is None else weights.to_json(measured_ks(report.last, weights))
        print(json.dumps({**report.to_json(), "weights": seen}, allow_nan=False))
    else:
        _print_tables(report, weights)
        if args.html is not None:
            print(f"wrote {args.html}")
    return 0


def _print_tables(report: ExpertReport, weights: ExpertWeights | None) -> None:
    from rich.console import Console
    from rich.text import Text

    from timeexpert.reports.edits import edit_counts
    from timeexpert.reports.terminal import plain

    console = Console()
    last = report.last
    console.print(plain(f"Experts of {report.run}: stage {last.stage}, step {last.global_step}", "bold"))
    console.print(_layers(last))
    console.print(_types(last))
    console.print(_ranks(last))
    named = _findings(report, weights)
    console.print(named if named.row_count else Text("No expert is dead or the duplicate of another."))
    if weights is not None and (costs := _costs(last, weights)).row_count:
        console.print(costs)
    if report.edits:
        counts = ", ".join(f"{n} times {action}" for action, n in edit_counts(report.edits).items())
        console.print(plain(f"Experts added and removed: {counts}. The last {SHOWN_ROWS}:"))
        console.print(_edits(report))
    else:
        console.print(Text("No experts were added or removed."))
    for note in report.notes:
        console.print(plain(f"note: {note}", "yellow"))


def _table(title: str, columns: dict[str, Any]) -> Table:
    from rich.table import Table

    from timeexpert.reports.terminal import plain

    table = Table(title=title, title_justify="left")
    for name, justify in columns.items():
        table.add_column(plain(name), justify=justify)
    return table


def _layers(last: Snapshot) -> Table:
    from timeexpert.reports.expert_findings import LAYER_COLUMNS, layer_rows

    columns = {name: "left" if name == "dead" else "right" for name in LAYER_COLUMNS}
    table = _table("Layers (a load of 1 is a fair share)", columns)
    for row in layer_rows(last):
        table.add_row(*row)
    return table


def _types(last: Snapshot) -> Table:
    from timeexpert.reports.expert_findings import type_rows

    title, rows = type_rows(last)
    table = _table(title, {"layer": "right"} | dict.fromkeys(last.seen_types, "right"))
    for row in rows:
        table.add_row(*row)
    return table


def _ranks(last: Snapshot) -> Table:
    table = _table("Most used | least used experts by token type", {"layer": "right"} | dict.fromkeys(last.token_types))
    for layer in last.layers:
        table.add_row(str(layer.layer), *(_ends(layer.ranked(t)) for t in last.token_types))
    return table


def _ends(ranked: list[int]) -> str:
    """The first and the last experts of a ranking: ``4 1 7 | 3 0``."""
    from timeexpert.reports.experts import RANKED

    if not ranked:
        return "not seen"
    top, bottom = ranked[:RANKED], ranked[RANKED:][::-1][:RANKED]
    return " ".join(map(str, top)) + (" | " + " ".join(map(str, bottom)) if bottom else "")


def _findings(report: ExpertReport, weights: ExpertWeights | None) -> Table:
    from timeexpert.reports.expert_findings import findings

    table = _table("Dead and duplicate experts", {"layer": "right", "experts": "left", "what": "left"})
    rows = findings(report, weights)
    for row in rows[:SHOWN_ROWS]:
        table.add_row(*row)
    if len(rows) > SHOWN_ROWS:
        table.add_row("...", f"{len(rows) - SHOWN_ROWS} more", "--html and --json name more")
    return table


def _costs(last: Snapshot, weights: ExpertWeights) -> Table:
    from timeexpert.reports.expert_findings import COST_COLUMNS, cost_rows

    table = _table("Cost per token, and what the measured run saves of it", {})
    for i, name in enumerate(COST_COLUMNS):
        table.add_column(name, justify="right" if i else "left", no_wrap=not i)
    for row in cost_rows(last, weights):
        table.add_row(*row)
    return table


def _edits(report: ExpertReport) -> Table:
    from timeexpert.reports.edits import edit_cells
    from timeexpert.reports.terminal import plain

    table = _table("", {})
    for name in ("step", "layer", "expert", "action", "active"):
        table.add_column(name, no_wrap=True)
    table.add_column("reason")
    for edit in report.edits[-SHOWN_ROWS:]:
        step, layer, expert, action, active, reason = edit_cells(
            edit, ("global_step", "layer", "expert", "action", "active", "reason")
        )
        source = "" if edit.get("parent") is None else f" from {edit['parent']}"
        table.add_row(*map(plain, (step, layer, expert, action + source, active, reason)))
    return table
