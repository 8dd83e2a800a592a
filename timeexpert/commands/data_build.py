"""``timeexpert data build``: samples and their videos become shards that training reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timeexpert.data.build import BuildReport

HELP = "write samples and their videos into shards, checking every video; goes on where a cut-off build stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "samples", type=Path, metavar="SAMPLES.jsonl", help="Sample lines, as `data convert` writes them"
    )
    parser.add_argument("--media", type=Path, required=True, help="folder that the samples' video paths start from")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--shard-mb", type=float, default=256, help="largest shard in megabytes (default: 256)")
    parser.add_argument("--workers", type=int, help="processes that check videos (default: one per core, at most 8)")
    parser.add_argument("--no-decode", action="store_true", help="open videos without decoding every frame once")
    parser.add_argument("--timeout-s", type=float, default=600, help="longest time for one video (default: 600)")
    parser.add_argument(
        "--preflight", type=Path, metavar="DIR", help="leave out the videos that `data preflight -o DIR` excludes"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Build; 0 where something was stored, 1 where nothing was."""
    import json
    from dataclasses import asdict

    from timeexpert.data.build import build
    from timeexpert.data.pool import workers_or_default
    from timeexpert.data.progress import shown

    with shown("checking videos", quiet=args.json) as progress:
        report = build(
            args.samples,
            args.media,
            args.output,
            shard_mb=args.shard_mb,
            workers=workers_or_default(args.workers),
            decode=not args.no_decode,
            timeout_s=args.timeout_s,
            preflight=args.preflight,
            progress=progress,
        )
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        _print(report)
    return 0 if report.videos else 1


def _print(report: BuildReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    title = "finished before; nothing to do" if report.already_built else "built"
    if report.resumed_shards:
        title = f"built, going on after {report.resumed_shards} finished shards"
    table = Table("", "count", title=escape(f"{report.out}: {title}"), title_justify="left")
    table.columns[1].justify = "right"
    for name, count in (("shards", report.shards), ("videos", report.videos), ("questions", report.questions)):
        table.add_row(name, str(count))
    for task, count in report.tasks.items():
        table.add_row(f"  {task}", str(count))
    table.add_row("media, MB", f"{report.media_bytes / 1e6:.1f}")
    table.add_row("identical duplicates left out", str(report.duplicates))
    table.add_row("questions dropped (dropped.jsonl)", str(report.dropped), style="red" if report.dropped else "")
    for kind, count in report.reasons.items():
        table.add_row(f"  {kind}", str(count))
    table.add_row("kept, but odd (notes.jsonl)", str(sum(report.notes.values())))
    for kind, count in report.notes.items():
        table.add_row(f"  {kind}", str(count))
    Console().print(table)
