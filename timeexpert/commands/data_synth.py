"""``timeexpert data synth``: labelled MP4 videos of coloured shapes, with questions and exact answers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "make labelled MP4 videos of moving shapes, with questions for every task and exact answers"

# flag, unit, what it is, its default, its default with --actions, and with --masks
LENGTHS = (
    ("min-duration-s", "S", "shortest video", 20.0, 60.0, 12.0),
    ("max-duration-s", "S", "longest video", 40.0, 120.0, 20.0),
    ("min-events", "N", "fewest events per video", 2, 8, 2),
    ("max-events", "N", "most events per video", 3, 14, 3),
    ("min-event-s", "S", "shortest event", 5.0, 4.0, 3.0),
    ("max-event-s", "S", "longest event", 10.0, 7.0, 6.0),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert data synth``."""
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="folder for media/ and samples.jsonl"
    )
    parser.add_argument("--videos", type=int, default=100, metavar="N", help="how many (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files (default 0)")
    parser.add_argument("--images", action="store_true", help="clips of a single frame, with general questions only")
    parser.add_argument(
        "--slides", action="store_true", help="slide shows: a picture per second (--max-duration-s at most 10)"
    )
    parser.add_argument(
        "--every-size", action="store_true", help="shapes of all sizes, growing by any amount; pictures also ask for it"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=1,
        metavar="N",
        help="a shape acts, or is on pictures of a slide show, up to N times (default 1)",
    )
    parser.add_argument(
        "--actions",
        type=int,
        default=0,
        metavar="N",
        help="long videos of steps with labels from a set of N (2 to 24), asked for their action segmentation",
    )
    parser.add_argument(
        "--masks",
        action="store_true",
        help="videos of several shapes at once with exact masks, asked when, where, and both",
    )
    parser.add_argument(
        "--does",
        action="append",
        metavar="NAME",
        help="with --masks: what shapes do, of left, right, grow, shrink, rotate, dot; may be repeated (default: all)",
    )
    parser.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="with --masks: ask in the words of FILE (default: data/mask_questions)",
    )
    for name, unit, what, default, of_actions, of_masks in LENGTHS:
        parser.add_argument(
            f"--{name}",
            type=int if unit == "N" else float,
            metavar=unit,
            help=f"{what} (default {default}; with --actions {of_actions}, with --masks {of_masks})",
        )
    parser.add_argument(
        "--persistent",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of shapes that stay on screen and act only during their event: harder (default 0)",
    )
    parser.add_argument(
        "--highlight-from",
        type=float,
        default=4.0,
        metavar="SCORE",
        help="ask for the highlights of shapes whose best score (1 to 5) is this or more (default 4)",
    )
    parser.add_argument(
        "--clips", type=Path, metavar="DIR", help="also take in the clips of a folder with an annotations.jsonl"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that draw and encode (default 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Make the data set; a killed run continues with the same command."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    from timeexpert.data.clips import check_clips, mix_in_clips
    from timeexpert.data.mask_wordings import load_mask_wordings
    from timeexpert.data.scenes import SynthConfig
    from timeexpert.data.synthetic import synthesise

    lengths: dict[str, Any] = {}
    for name, _, _, default, of_actions, of_masks in LENGTHS:
        field = name.replace("-", "_")
        given = getattr(args, field)
        usual = of_actions if args.actions else of_masks if args.masks else default
        lengths[field] = given if given is not None else usual
    config = SynthConfig(
        videos=args.videos,
        seed=args.seed,
        images=args.images,
        slides=args.slides,
        every_size=args.every_size,
        repeats=args.repeats,
        actions=args.actions,
        masks=args.masks,
        does=tuple(args.does or ()),
        wordings=load_mask_wordings(args.questions) if args.questions else None,
        persistent=args.persistent,
        highlight_from=args.highlight_from,
        **lengths,
    )
    if args.clips is not None:
        check_clips(args.clips)  # before the videos are made
    console = Console()
    steps = synthesise(config, args.out, workers=args.workers)
    for _ in track(steps, total=config.videos, description="videos", console=console):
        pass
    if args.clips is not None:
        taken, left_out = mix_in_clips(args.clips, args.out)
        console.print(f"{taken} questions about clips of {escape(str(args.clips))}", highlight=False, soft_wrap=True)
        for reason in left_out:
            console.print(f"[yellow]left out[/] {escape(reason)}", highlight=False, soft_wrap=True)
    questions = sum(1 for _ in open(args.out / "samples.jsonl", encoding="utf-8"))
    out = escape(str(args.out))
    console.print(f"{config.videos} videos, {questions} questions in {out}", highlight=False, soft_wrap=True)
    console.print(f"next: timeexpert data build {out}/samples.jsonl --media {out}/media -o SHARDS", soft_wrap=True)
    return 0
