"""``timeexpert data bench``: how fast a shard folder is read, and whether a GPU would wait for it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timeexpert.data.bench import DataSpeed

HELP = "videos and frames per second of a shard folder, where the time goes, and whether a GPU would wait"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("shards", type=Path, help="a shard folder (timeexpert data build)")
    parser.add_argument("--frames", type=int, default=16, help="frames per video (16)")
    parser.add_argument("--size", type=int, default=490, help="pixels of a frame's side, as the model sees it (490)")
    parser.add_argument("--batch-videos", type=int, default=8, help="videos per batch (8)")
    parser.add_argument("--batches", type=int, default=20, help="batches to measure (20)")
    parser.add_argument("--workers", type=int, help="processes that load (default: one per core, at most 8)")
    parser.add_argument("--step-s", type=float, help="seconds of one training step: says whether it would wait")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    import json

    from timeexpert.data.bench import measure
    from timeexpert.data.pool import workers_or_default
    from timeexpert.data.progress import shown

    workers = workers_or_default(args.workers)
    with shown("reading", quiet=args.json) as progress:
        for speed in measure(
            args.shards,
            num_frames=args.frames,
            size=args.size,
            batch_videos=args.batch_videos,
            batches=args.batches,
            workers=workers,
            step_s=args.step_s,
        ):
            if progress is not None:
                progress(speed.batches, args.batches, f"{speed.videos_per_s:.1f} videos/s")
    print(json.dumps(speed.to_json())) if args.json else _print(speed)
    return 0


def _print(speed: DataSpeed) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"{speed.videos_per_s:.1f} videos/s, {speed.frames_per_s:.0f} frames/s with {speed.workers} workers; "
        f"a batch of {speed.videos / speed.batches:.0f} videos every {speed.batch_s:.2f} s",
        highlight=False,
    )
    total = sum(speed.seconds_per_video.values())
    table = Table("a worker's time per video", "ms", "share")
    for name, seconds in speed.seconds_per_video.items():
        table.add_row(name, f"{seconds * 1e3:.2f}", f"{seconds / total:.0%}")
    console.print(table)
    if speed.unreadable:
        console.print(f"[yellow]{speed.unreadable} of {speed.videos} videos could not be decoded[/]", highlight=False)
    if speed.step_s is not None:
        share = speed.wait_share or 0.0
        said = (
            f"would wait for data {share:.0%} of the time; {speed.workers_needed} workers of this speed, a core for "
            "each, keep up"
            if share > 0
            else "would not wait"
        )
        console.print(f"a GPU that takes {speed.step_s:g} s per step {said}", highlight=False)
