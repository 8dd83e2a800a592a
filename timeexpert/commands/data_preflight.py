"""``timeexpert data preflight``: every clip decoded once before hours are spent on it; a report and a list to obey."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timeexpert.data.preflight.run import PreflightReport

HELP = "decode every clip once: report what is odd about it, and list the unusable ones for data build to leave out"

EPILOG = """\
Always left out: missing, unreadable, timeout, crash. Kinds for --exclude: all_black (the default), black, still,
slideshow, frozen, cut_short, damaged, gap, variable_rate, late_start, rotated, odd_pixels, duration_differs, past_end.
--exclude without a kind leaves out the unusable ones alone.

The output folder holds preflight.html (the report), preflight.json (counts and settings), clips.jsonl (a line per
clip) and exclude.jsonl (what data build --preflight DIR leaves out). The same command goes on after an interruption,
and checks only new and changed clips later.

  timeexpert data preflight samples.jsonl --media videos -o preflight --workers 8
  timeexpert data preflight videos -o preflight
  timeexpert data preflight shards/charades -o preflight
  timeexpert data build samples.jsonl --media videos -o shards --preflight preflight
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("path", type=Path, help="a Sample .jsonl (with --media), a folder of videos, or a shard folder")
    parser.add_argument("--media", type=Path, metavar="DIR", help="folder that the samples' video paths start from")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the report")
    parser.add_argument(
        "--exclude",
        nargs="*",
        default=None,
        metavar="KIND",
        help="kinds of findings that leave a clip out; stands after PATH (all_black)",
    )
    parser.add_argument("--workers", type=int, help="processes that decode (default: one per core, at most 8)")
    parser.add_argument("--timeout-s", type=float, default=600, help="longest time for one clip (default: 600)")
    parser.add_argument("--retry-failed", action="store_true", help="check again what failed in an earlier run")
    for flag, kind, default, text in (
        ("--black-s", float, 1.0, "shortest black stretch, seconds"),
        ("--black-level", int, 20, "luma of 255 up to which a pixel is black"),
        ("--frozen-s", float, 3.0, "shortest frozen stretch, seconds"),
        ("--frozen-level", int, 3, "largest difference of 255 between frames that count as equal"),
        ("--gap-s", float, 2.0, "shortest time of a single frame that is a gap, seconds"),
    ):
        parser.add_argument(flag, type=kind, default=default, help=f"{text} (default: {default})")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def run(args: argparse.Namespace) -> int:
    """Check; 0 where some clip can be used, 1 where none can."""
    import json
    from dataclasses import asdict

    from timeexpert.data.pool import workers_or_default
    from timeexpert.data.preflight.findings import DEFAULT_EXCLUDE
    from timeexpert.data.preflight.run import preflight
    from timeexpert.data.preflight.stretches import StretchConfig
    from timeexpert.data.progress import shown
    from timeexpert.reports.preflight_page import write_preflight_page

    names = ("black_s", "black_level", "frozen_s", "frozen_level", "gap_s")
    workers = workers_or_default(args.workers)
    with shown("checking clips", quiet=args.json) as progress:
        report = preflight(
            args.path,
            args.output,
            media=args.media,
            config=StretchConfig(**{name: getattr(args, name) for name in names}),
            exclude=DEFAULT_EXCLUDE if args.exclude is None else args.exclude,
            workers=workers,
            timeout_s=args.timeout_s,
            retry_failed=args.retry_failed,
            progress=progress,
        )
    write_preflight_page(args.output, workers=workers)
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        _print(report)
    return 0 if report.excluded < report.clips else 1


def _print(report: PreflightReport) -> None:
    from rich.console import Console
    from rich.table import Table

    from timeexpert.data.preflight.findings import KINDS
    from timeexpert.data.preflight.run import PAGE
    from timeexpert.reports.terminal import plain

    table = Table("", "count", "", title=plain(f"{report.source}: preflight"), title_justify="left")
    table.columns[1].justify = "right"
    table.add_row("clips", str(report.clips), f"{report.duration_s / 3600:.2f} hours, {report.frames} frames decoded")
    if report.features:
        table.add_row("  files of features", str(report.features), "every value read; pictures are not looked at")
    table.add_row("  checked before", str(report.reused))
    table.add_row("  left out (exclude.jsonl)", str(report.excluded), style="red" if report.excluded else "")
    for kind, count in report.kinds.items():
        table.add_row(f"  {kind}", str(count), KINDS[kind])
    table.add_row("questions", str(report.questions))
    table.add_row("  about clips that are left out", str(report.questions_excluded))
    table.add_row("  past the end of their clip", str(report.questions_past_end))
    table.add_row("bad lines", str(report.bad_lines), "listed in preflight.json" if report.bad_lines else "")
    others = ", ".join(f"{count} {suffix}" for suffix, count in report.other_files.items())
    table.add_row("other files", str(sum(report.other_files.values())), plain(others))
    console = Console()
    console.print(table)
    console.print(plain(f"report: {report.out}/{PAGE}"), soft_wrap=True, highlight=False)
