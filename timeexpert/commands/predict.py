"""``timeexpert predict RUN video.mp4 "when does ..."``: events on the screen, a timeline as PNG, masks as a video."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "ask a trained model about a video: prints events, draws a timeline, and masks where it shows any"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert predict``."""
    parser.add_argument(
        "model", type=Path, metavar="RUN", help="run folder, or a model folder such as checkpoints/tiny"
    )
    parser.add_argument("video", type=Path, metavar="VIDEO", help="a video file")
    parser.add_argument("prompt", metavar="PROMPT", help='for example "When does the red circle grow?"')
    parser.add_argument(
        "--task",
        choices=(
            *("general", "dense_captioning", "moment_retrieval", "highlight_detection", "action_segmentation"),
            "referring_segmentation",
        ),
        help="what kind of answer is wanted; without it the model may answer in any form",
    )
    parser.add_argument("--num-frames", type=int, metavar="N", help="frames to look at (default: as trained)")
    parser.add_argument(
        "--png", type=Path, metavar="FILE", help="timeline picture (default: VIDEO's name in this folder)"
    )
    parser.add_argument("--no-png", action="store_true", help="no picture")
    parser.add_argument(
        "--mp4", type=Path, metavar="FILE", help="where an answer with masks is drawn (default: VIDEO.masks.mp4, here)"
    )
    parser.add_argument("--no-mp4", action="store_true", help="no video of the masks")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Answer one question about one video."""
    import json

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from timeexpert.errors import UserError
    from timeexpert.predict import Predictor, Request
    from timeexpert.reports.class_picture import draw_steps
    from timeexpert.reports.mask_video import write_mask_video
    from timeexpert.reports.timeline import draw_timeline

    masked = _checked(args)
    predictor = Predictor.from_pretrained(args.model, device=args.device)
    if args.task == "referring_segmentation" and not predictor.draws_masks:
        family = predictor.model.config.model_type
        raise UserError(f"--task {args.task} needs masks, and models of the family {family} draw none. Choose another.")
    clip = predictor.clip(args.video, num_frames=args.num_frames)
    answer = predictor.answer([Request(clip, args.prompt, args.task)])[0]
    picture = None
    if not args.no_png:
        picture = args.png or Path(f"{args.video.stem}.timeline.png")
        pictured = predictor.frames_for_display(args.video, clip.times_s)
        drawn = (pictured, answer.frame_times_s, None, answer.events, clip.duration_s, args.prompt)
        try:
            if args.task == "action_segmentation":  # without a label set: the actions that were told
                draw_steps(*drawn, list(dict.fromkeys(e.text for e in answer.events if e.text)), picture)
            else:
                draw_timeline(*drawn, picture)
        except OSError as error:
            raise UserError(
                f"{picture}: cannot be written: {error.strerror}. Choose another --png, or --no-png."
            ) from None
    drawn_masks = None
    if answer.tracks and not args.no_mp4:
        frames, width, height = write_mask_video(args.video, answer.tracks, answer.events, clip.duration_s, masked)
        drawn_masks = masked
    if args.json:
        row = {"video": str(args.video), "prompt": args.prompt, **answer.to_json(), "picture": picture and str(picture)}
        row["masks"] = drawn_masks and str(drawn_masks)
        print(json.dumps(row, allow_nan=False))
        return 0
    console = Console()
    title = escape(f"{args.video.name} ({clip.duration_s:.1f} s): {args.prompt}")
    console.print(title, style="bold", highlight=False, soft_wrap=True)  # a table's own title wraps at its width
    table = Table()
    for title in ("start", "end", "score", "text"):
        table.add_column(title, justify="left" if title == "text" else "right")
    for event in answer.events:
        times = ["-" if t is None else f"{t:.1f} s" for t in (event.start_s, event.end_s)]
        table.add_row(*times, ", ".join(f"{s:g}" for s in event.scores) or "-", escape(printable(event.text)))
    console.print(table)
    for problem in answer.problems:
        reason = escape(problem.reason)
        console.print(f"[yellow]did not parse[/] at token {problem.position}: {reason}", highlight=False)
    seen = ", ".join(f"{t:.1f}" for t in answer.frame_times_s)
    console.print(f"frames seen at {seen} s", highlight=False)
    if picture is not None:
        console.print(f"timeline: {escape(str(picture))}", highlight=False, soft_wrap=True)
    if answer.tracks:
        names = ", ".join(escape(printable(track.object_id)) or "unnamed" for track in answer.tracks)
        console.print(f"objects with masks: {len(answer.tracks)} ({names})", highlight=False)
    if drawn_masks is not None:
        size = f"{frames} frames of {width}x{height}"
        console.print(f"masks: {escape(str(drawn_masks))} ({size})", highlight=False, soft_wrap=True)
    elif args.mp4 is not None and not answer.tracks:
        console.print("the answer has no masks, so no video was written", highlight=False)
    return 0


def _checked(args: argparse.Namespace) -> Path:
    """Refuses what cannot be done before a model is loaded; where masks are to be drawn."""
    from timeexpert.data.media import is_features
    from timeexpert.errors import UserError

    if args.num_frames is not None and args.num_frames < 1:
        raise UserError(f"--num-frames ({args.num_frames}) must be 1 or more.")
    if not args.video.is_file():
        raise UserError(f"{args.video}: no such file. Give the path of a video.")
    if is_features(args.video) and not args.no_png:
        raise UserError(f"{args.video}: holds features, of which no picture can be made. Add --no-png.")
    masked = args.mp4 or Path(f"{args.video.stem}.masks.mp4")
    if masked.resolve() == args.video.resolve():
        raise UserError(f"--mp4 ({masked}) is the video itself, which would be lost. Choose another file.")
    if not args.no_mp4 and masked.is_dir():
        raise UserError(f"--mp4 ({masked}) is a folder. Give a file, or --no-mp4.")
    return masked


def printable(text: str) -> str:
    """``text`` without what a terminal would obey: a model may write any byte."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
