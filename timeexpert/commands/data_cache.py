"""``timeexpert data cache``: clips as a few frames, or features of them, with exact times, which are quick to read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from timeexpert.data.cache import CacheReport

    Progress = Callable[[int, int, str], None] | None

HELP = "keep some frames of each clip as JPEG, or a vision tower's features of them; goes on where it was cut off"
JPEG_ONLY, FEATURES_ONLY = ("size", "keep_size", "quality"), ("dtype", "num_frames", "device")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "samples", type=Path, metavar="SAMPLES.jsonl", help="Sample lines, as `data convert` writes them"
    )
    parser.add_argument("--media", type=Path, required=True, help="folder that the samples' video paths start from")
    parser.add_argument("-o", "--output", type=Path, required=True, help="gets media/ and samples.jsonl for data build")
    parser.add_argument("--fps", type=float, help="frames to keep per second (2)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core, at most 8; with --features 1)")
    parser.add_argument("--timeout-s", type=float, default=600, help="longest time for one clip (default: 600)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    jpeg = parser.add_argument_group("frames as JPEG")
    jpeg.add_argument("--size", type=int, help="pixels of a frame's side, as the model sees it (490)")
    jpeg.add_argument("--keep-size", action="store_true", default=None, help="keep each clip's own size and shape")
    jpeg.add_argument("--quality", type=int, help="JPEG's quantiser, 2 (best, the default) to 31")
    features = parser.add_argument_group("features of a vision tower that is not trained")
    features.add_argument("--features", type=Path, metavar="MODEL", help="run or model folder whose tower is used")
    features.add_argument(
        "--num-frames",
        type=int,
        nargs="+",
        metavar="N",
        help="instead of --fps: what uniform sampling of N frames takes",
    )
    features.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="of the features (bfloat16)")
    features.add_argument("--device", help="auto, cpu, cuda or cuda:N (default auto)")


def run(args: argparse.Namespace) -> int:
    """Cache; 0 where a clip could be kept, 1 where none could."""
    import json
    from dataclasses import asdict

    from timeexpert.data.progress import shown
    from timeexpert.errors import UserError

    for name in FEATURES_ONLY if args.features is None else JPEG_ONLY:
        if getattr(args, name) is not None:
            what = "needs --features MODEL" if args.features is None else "is for frames as JPEG, not for --features"
            raise UserError(f"--{name.replace('_', '-')} {what}. Leave it out.")
    if args.fps is not None and args.num_frames is not None:
        raise UserError("--fps and --num-frames both say which frames are kept. Give one of them.")
    with shown("caching", quiet=args.json) as progress:
        report = (_frames if args.features is None else _features)(args, progress)
    print(json.dumps(asdict(report))) if args.json else _print(report)
    return 0 if report.clips else 1


def _frames(args: argparse.Namespace, progress: Progress) -> CacheReport:
    from timeexpert.data.cache import cache_frames
    from timeexpert.data.pool import workers_or_default

    return cache_frames(
        args.samples,
        args.media,
        args.output,
        fps=2.0 if args.fps is None else args.fps,
        size=None if args.keep_size else 490 if args.size is None else args.size,
        quality=2 if args.quality is None else args.quality,
        workers=workers_or_default(args.workers),
        timeout_s=args.timeout_s,
        progress=progress,
    )


def _features(args: argparse.Namespace, progress: Progress) -> CacheReport:
    from timeexpert.feature_cache import cache_features

    return cache_features(
        args.features,
        args.samples,
        args.media,
        args.output,
        dtype=args.dtype or "bfloat16",
        fps=2.0 if args.fps is None and args.num_frames is None else args.fps,
        num_frames=args.num_frames or (),
        device=args.device or "auto",
        workers=1 if args.workers is None else args.workers,
        timeout_s=args.timeout_s,
        progress=progress,
    )


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
