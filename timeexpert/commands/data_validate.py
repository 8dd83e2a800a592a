"""``timeexpert data validate``: everything that is wrong with Sample lines or with a shard folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timeexpert.data.validate import Validation

HELP = "list everything that is wrong with a Sample .jsonl or a shard folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("path", type=Path, help="a Sample .jsonl, or a shard folder")
    parser.add_argument("--media", type=Path, help="with a .jsonl: open each video and check times against it")
    parser.add_argument("--decode", action="store_true", help="decode every frame of every video once")
    parser.add_argument("--rebuild-index", action="store_true", help="first make a shard folder's index from its tars")
    parser.add_argument("--workers", type=int, help="processes that open videos (default: one per core, at most 8)")
    parser.add_argument("--timeout-s", type=float, default=600, help="longest time for one video (default: 600)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Validate; 0 where all is well, 1 where anything is wrong."""
    import json
    from dataclasses import asdict

    from timeexpert.data.pool import workers_or_default
    from timeexpert.data.progress import shown
    from timeexpert.data.shards import rebuild_index
    from timeexpert.data.validate import validate

    lost = rebuild_index(args.path).problems if args.rebuild_index else []
    with shown("checking", quiet=args.json) as progress:
        result = validate(
            args.path,
            media=args.media,
            decode=args.decode,
            workers=workers_or_default(args.workers),
            timeout_s=args.timeout_s,
            progress=progress,
        )
    result.problems = list(dict.fromkeys([*lost, *result.problems]))
    if args.json:
        print(json.dumps(asdict(result)))
    else:
        _print(result)
    return 1 if result.problems else 0


def _print(result: Validation) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for lines, style in ((result.notes, "yellow"), (result.problems, "red")):
        for line in lines:
            console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    table = Table("", "count", title=escape(f"{result.path} ({result.kind})"), title_justify="left")
    table.columns[1].justify = "right"
    table.add_row("videos", str(result.videos))
    table.add_row("questions", str(result.questions))
    for task, count in result.tasks.items():
        table.add_row(f"  {task}", str(count))
    if result.tracks:
        table.add_row("tracks of masks", str(result.tracks))
    table.add_row("notes", str(len(result.notes)))
    table.add_row("problems", str(len(result.problems)), style="red" if result.problems else "green")
    console.print(table)
