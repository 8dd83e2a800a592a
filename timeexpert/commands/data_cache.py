"""``timeexpert data cache``: clips become a few JPEG frames with exact times, which are quick to read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timeexpert.data.cache import CacheReport

HELP = "keep a few frames per second of each clip as JPEG, with their exact times; goes on where it was cut off"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "samples", type=Path, metavar="SAMPLES.jsonl", help="Sample lines, as `data convert` writes them"
    )
    parser.add_argument("--media", type=Path, required=True, help="folder that the samples' video paths start from")
    parser.add_argument("-o", "--output", type=Path, required=True, help="gets media/ and samples.jsonl for data build")
    parser.add_argument("--fps", type=float, default=2.0, help="frames to keep per second (2)")
    parser.add_argument("--size", type=int, default=490, help="pixels of a frame's side, as the model sees it (490)")
    parser.add_argument("--keep-size", action="store_true", help="keep each clip's own size and shape instead")
    parser.add_argument("--quality", type=int, default=2, help="JPEG's quantiser, 2 (best, the default) to 31")
    parser.add_argument("--workers", type=int, help="processes (default: one per core, at most 8)")
    parser.add_argument("--timeout-s", type=float, default=600, help="longest time for one clip (default: 600)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Cache; 0 where a clip could be kept, 1 where none could."""
    import json
    import os
    from dataclasses import asdict

    from timeexpert.data.cache import cache_frames
    from timeexpert.data.progress import shown

    with shown("caching", quiet=args.json) as progress:
        report = cache_frames(
            args.samples,
            args.media,
            args.output,
            fps=args.fps,
            size=None if args.keep_size else args.size,
            quality=args.quality,
            workers=args.workers if args.workers is not None else min(8, len(os.sched_getaffinity(0))),
            timeout_s=args.timeout_s,
            progress=progress,
        )
    print(json.dumps(asdict(report))) if args.json else _print(report)
    return 0 if report.clips else 1


def _print(report: CacheReport) -> None:
    from rich.console import Console

    console = Console()
    console.print(
        f"{report.clips} clips ({report.reused} were there) of {report.samples} samples: "
        f"{report.bytes_before / 1e6:.1f} MB became {report.bytes_after / 1e6:.1f} MB",
        highlight=False,
    )
    for reason in report.reasons.values():
        console.print(reason, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if report.clips:
        console.print("next:")
        command = f"timeexpert data build {report.out}/samples.jsonl --media {report.out}/media -o SHARDS"
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)
