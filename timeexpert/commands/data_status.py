"""``timeexpert data status``: what is there of each data set of a mix, and what to do next."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timeexpert.data.mixes import MixConfig
    from timeexpert.data.status import DatasetStatus

HELP = "say for each data set of a mix what is found, missing or incomplete, and the next command"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("mix", metavar="MIX", help="a mix file, or one that comes with the package: data/stage1")
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        help="folder with annotations/, videos/, samples/ and shards/ (docs/mixes.md)",
    )
    parser.add_argument("--dataset", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--missing", type=Path, metavar="DIR", help="write the missing videos' names to DIR/NAME.txt")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Look; 0 where the shards of all data sets are built, 1 where anything is left to do."""
    import json
    from dataclasses import asdict

    from timeexpert.data.mixes import load_mix
    from timeexpert.data.progress import shown
    from timeexpert.data.status import mix_status

    mix = load_mix(args.mix)
    with shown("looking", quiet=args.json) as progress:
        found = mix_status(mix, args.root, only=args.dataset, missing_lists=args.missing, progress=progress)
    if args.json:
        print(json.dumps({"mix": mix.name, "mix_by": mix.mix_by, "datasets": [asdict(status) for status in found]}))
    else:
        _print(mix, found, args.root)
    return 0 if all(status.ready for status in found) else 1


def _print(mix: MixConfig, found: list[DatasetStatus], root: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title=escape(f"{mix.name}, weights by {mix.mix_by}, in {root}"), title_justify="left")
    for name in ("data set", "share", "state", "rows", "videos", "shards"):
        table.add_column(name, justify="right" if name in ("share", "rows", "videos") else "left")
    style = {"found": "green", "incomplete": "yellow", "missing": "red"}
    for status in found:
        table.add_row(
            escape(status.name),
            f"{status.share:.2%}",
            f"[{style[status.state]}]{status.state}[/]",
            f"{status.rows:,}" if status.counted else "",
            f"{status.present:,} of {status.videos:,}" if status.counted else "",
            f"{status.shards}, {status.shard_videos:,} videos" if status.shard_videos else status.shards,
        )
    console.print(table)
    plain = {"markup": False, "highlight": False, "soft_wrap": True}
    for status in found:
        lines = [f"  {note}" for note in status.notes]
        if status.unreadable:
            lines.append(f"  {status.unreadable:,} rows name no video; data convert says why in its rejected file")
        if status.other_ending:
            lines.append(
                f"  {status.other_ending:,} missing videos are there under another ending; rename or convert them"
            )
        if status.missing_examples and not status.ready:
            lines.append(f"  missing, for example: {', '.join(status.missing_examples)}")
        lines += [f"  -> {step}" for step in status.next]
        if lines:
            console.print(f"{status.name}: {status.page} (licence: {status.licence})", style="bold", **plain)  # type: ignore[arg-type]
        for line in lines:
            console.print(line, **plain)  # type: ignore[arg-type]
    ready = sum(status.ready for status in found)
    console.print(f"{ready} of {len(found)} data sets are ready for training: data.root={root / 'shards'}", **plain)  # type: ignore[arg-type]
