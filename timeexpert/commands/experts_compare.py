"""``timeexpert experts compare RUN_A RUN_B``: two runs side by side."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from timeexpert.reports.compare import Comparison, Pair

HELP = "compare the experts of two runs: figures, experts per token, evenness, fallback, dead experts, edits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert experts compare``."""
    for name in ("run_a", "run_b"):
        parser.add_argument(
            name, type=Path, metavar=name.upper(), help="run folder, or one of its models or checkpoints"
        )
    parser.add_argument("--html", type=Path, metavar="OUT", help="also write an HTML page to this file")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--stage", help="compare this stage (default: the last records)")


def run(args: argparse.Namespace) -> int:
    """Print the comparison; returns the exit code."""
    from timeexpert.reports.compare import compare
    from timeexpert.reports.compare_page import compare_page
    from timeexpert.reports.style import write_html

    comparison = compare(args.run_a, args.run_b, args.stage)
    if args.html is not None:
        write_html(args.html, compare_page(comparison))
    if args.json:
        print(json.dumps(comparison.to_json(), allow_nan=False))
    else:
        _print_tables(comparison)
        if args.html is not None:
            print(f"wrote {args.html}")
    return 0


def _print_tables(comparison: Comparison) -> None:
    from rich.console import Console

    from timeexpert.reports.terminal import plain

    console = Console()
    for name, last in zip(comparison.names, comparison.last, strict=True):
        console.print(plain(f"{name}: stage {last.stage}, step {last.global_step}", "bold"), soft_wrap=True)
    overall = _table("Overall (difference: B - A)", ["", *comparison.names, "difference"])
    for pair in comparison.overall():
        overall.add_row(pair.name, *pair.texts())
    console.print(overall)
    if settings := comparison.settings():
        table = _table("Settings that differ", ["moe setting", *comparison.names])
        for row in settings:
            table.add_row(*map(plain, row))
        console.print(table)
    if comparison.types:
        console.print(_grouped("By token type: A -> B (difference)", comparison.by_type()))
    console.print(_grouped("By layer: A -> B (difference)", comparison.by_layer()))
    if comparison.types:
        title = "Experts per token by layer and token type: A -> B (difference)"
        console.print(_grouped(title, comparison.by_layer_and_type()))
    for note in comparison.notes:
        console.print(plain(f"note: {note}", "yellow"))


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich.table import Table

    from timeexpert.reports.terminal import plain

    table = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(plain(name), justify="right" if i else "left")
    return table


def _grouped(title: str, groups: Mapping[str, list[Pair]] | Mapping[int, list[Pair]]) -> Table:
    from timeexpert.reports.terminal import plain

    rows = {str(name): pairs for name, pairs in groups.items()}
    table = _table(title, ["", *(pair.name for pair in next(iter(rows.values())))])
    for name, pairs in rows.items():
        table.add_row(plain(name), *("{} -> {}\n({})".format(*pair.texts()) for pair in pairs))
    return table
