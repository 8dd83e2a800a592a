"""``timeexpert score``: score anybody's predictions, or run the reference cases."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "score predictions without a model; --oracle runs reference cases and says what agrees"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert score``."""
    parser.add_argument(
        "--oracle", type=Path, metavar="DIR", help="run every reference case in DIR; exit 1 on a difference"
    )
    parser.add_argument(
        "--family", action="append", metavar="NAME", help="with --oracle: this family only (repeatable)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Exit code 0, or 1 where a figure differs from its reference."""
    import json
    from collections import Counter
    from dataclasses import asdict

    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress
    from rich.table import Table

    from timeexpert.errors import UserError
    from timeexpert.evaluation.oracle import families, run_family

    if args.oracle is None:
        raise UserError("give --oracle DIR.")
    known = families(args.oracle)
    chosen = args.family or known
    for name in chosen:
        if name not in known:
            raise UserError(f"{args.oracle}: no family {name!r}; there are {', '.join(known)}.")
    console = Console(stderr=args.json)
    rows = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("families", total=len(chosen))
        for name in chosen:
            progress.update(task, description=name)
            rows[name] = list(run_family(args.oracle, name))
            progress.advance(task)
    differing = [row for family in rows.values() for row in family if row.state == "differs"]
    if args.json:
        print(json.dumps({name: [asdict(row) for row in family] for name, family in rows.items()}))
        return 1 if differing else 0
    table = Table(
        "family",
        "cases",
        "references",
        "agreed",
        "differ",
        "fault of it",
        "no figure",
        "not covered",
        "largest difference",
    )
    for name, family in rows.items():
        states = Counter(row.state for row in family)
        counts = [states[s] for s in ("agreed", "differs", "fault", "no figure", "not covered")]
        cases = len({(row.file, row.case) for row in family})
        largest = max((row.largest for row in family), default=0.0)
        table.add_row(name, str(cases), str(len(family)), *map(str, counts), f"{largest:.1e}")
    console.print(table)
    for row in differing[:20]:
        console.print(
            f"[red]differs[/] {row.family}/{row.file}/{escape(row.case)} {escape(row.reference)}: {escape(row.detail)}"
        )
    if len(differing) > 20:
        console.print(f"... and {len(differing) - 20} more; --json lists all")
    return 1 if differing else 0
