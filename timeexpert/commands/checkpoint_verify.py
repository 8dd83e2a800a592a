"""``timeexpert checkpoint verify``: are all bytes of checkpoints and models those that were written?"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "check checkpoints, models or whole runs against their checksums"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="a checkpoint, a model folder or a run")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Verify; 0 where every folder is whole, 1 where anything is damaged."""
    import json
    from dataclasses import asdict

    from timeexpert.checkpoint.audit import audit

    rows = [row for path in args.paths for row in audit(path)]
    if args.json:
        print(json.dumps([asdict(row) | {"folder": str(row.folder)} for row in rows]))
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        table = Table("folder", "step", "files", "GB", "state")
        for row in rows:
            state = Text(row.problem, style="red") if row.problem else Text(row.state, style="green")
            step = "" if row.global_step is None else str(row.global_step)
            table.add_row(Text(str(row.folder)), step, str(row.files), f"{row.size / 1e9:.3f}", state)
        console.print(table)
    return 1 if any(row.problem for row in rows) else 0
