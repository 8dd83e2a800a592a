"""``timeexpert experts trace RUN video.mp4 "question"``: which experts computed each token of an answer."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from timeexpert.reports.trace import ExpertTrace

HELP = "show which experts computed each word of an answer and each frame, as a picture or a page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert experts trace``."""
    parser.add_argument(
        "model", type=Path, metavar="RUN", help="run folder, or a model folder such as checkpoints/tiny"
    )
    parser.add_argument("video", type=Path, metavar="VIDEO", help="a video file")
    parser.add_argument("prompt", metavar="PROMPT", help='for example "When does the red circle grow?"')
    parser.add_argument(
        "--task",
        choices=("general", "dense_captioning", "moment_retrieval", "highlight_detection", "action_segmentation"),
        help="what kind of answer is wanted; without it the model may answer in any form",
    )
    parser.add_argument(
        "--layer",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="show this layer; may be repeated (default: all, of many four)",
    )
    parser.add_argument("--num-frames", type=int, metavar="N", help="frames to look at (default: as trained)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page instead of a picture")
    parser.add_argument(
        "--png", type=Path, metavar="FILE", help="picture (default: VIDEO's name in this folder, unless --html)"
    )
    parser.add_argument("--no-png", action="store_true", help="no picture")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables (all layers)")


def run(args: argparse.Namespace) -> int:
    """Answer one question about one video and show who computed it."""
    from timeexpert.errors import UserError
    from timeexpert.predict import Predictor, Request
    from timeexpert.reports.style import write_html
    from timeexpert.reports.trace import choose_layers, trace
    from timeexpert.reports.trace_page import trace_page
    from timeexpert.reports.trace_picture import draw_trace

    if args.num_frames is not None and args.num_frames < 1:
        raise UserError(f"--num-frames ({args.num_frames}) must be 1 or more.")
    if not args.video.is_file():
        raise UserError(f"{args.video}: no such file. Give the path of a video.")
    predictor = Predictor.from_pretrained(args.model, device=args.device)
    layers = choose_layers(len(predictor.model.gates), args.layer)
    clip = predictor.clip(args.video, num_frames=args.num_frames)
    traced = trace(predictor, Request(clip, args.prompt, args.task))
    picture = args.png or (None if args.no_png or args.html else Path(f"{args.video.stem}.experts.png"))
    if picture or args.html:
        thumbnails = predictor.frames_for_display(args.video, clip.times_s)
        if args.html:
            write_html(
                args.html,
                trace_page(traced, layers, thumbnails, video=args.video.name, model=args.model.resolve().name),
            )
        if picture:
            png = draw_trace(traced, layers, thumbnails, video=args.video.name)
            try:
                picture.write_bytes(png)
            except OSError as error:
                raise UserError(
                    f"{picture}: cannot be written: {error.strerror}. Choose another --png, or --no-png."
                ) from None
    written = [str(path) for path in (picture, args.html) if path]
    if args.json:
        every = layers if args.layer else list(range(len(traced.active)))
        print(json.dumps({"video": str(args.video), **traced.to_json(every), "written": written}, allow_nan=False))
    else:
        _print_tables(traced, layers, args.video, written)
    return 0


def _print_tables(traced: ExpertTrace, layers: list[int], video: Path, written: list[str]) -> None:
    from rich.console import Console

    from timeexpert.reports.terminal import plain

    console = Console()
    clip = traced.request.clip
    console.print(plain(f"{video.name} ({clip.duration_s:.1f} s): {traced.request.prompt}", "bold"), soft_wrap=True)
    console.print(_tokens(traced, layers))
    console.print("* by fallback: no expert accepted this token", style="dim")
    console.print(_frames(traced, layers))
    for problem in traced.prediction.problems:
        console.print(plain(f"did not parse at token {problem.position}: {problem.reason}", "yellow"))
    if len(layers) < len(traced.active):
        console.print(f"{len(layers)} of {len(traced.active)} layers are shown; --layer N chooses others", style="dim")
    if traced.router == "topk":
        console.print("router topk: every token gets its best experts; there are no thresholds", style="dim")
    for path in written:
        console.print(plain(f"wrote {path}"), soft_wrap=True)


def _tokens(traced: ExpertTrace, layers: list[int]) -> Table:
    from rich.table import Table

    from timeexpert.reports.terminal import plain

    table = Table(title="Experts of each token of the answer", title_justify="left")
    for name in ("token", "type", *(f"layer {layer}" for layer in layers)):
        table.add_column(name)
    last = -1
    for token in traced.tokens:
        names = [
            " ".join(map(str, token.experts[layer])) + ("*" if token.fell_back[layer] else "") or "-"
            for layer in layers
        ]
        indent = "" if token.word != last else "  "  # a further piece of the same word
        last = token.word
        table.add_row(plain(indent + token.text), token.type, *names)
    return table


def _frames(traced: ExpertTrace, layers: list[int]) -> Table:
    from rich.table import Table

    from timeexpert.reports.trace import shares

    table = Table(title="Experts of each frame: visual tokens | tokens of its time", title_justify="left")
    for name in ("frame", *(f"layer {layer}" for layer in layers)):
        table.add_column(name, justify="right" if name == "frame" else "left")
    for frame in traced.frames:
        cells = []
        for layer in layers:
            sides = (shares(frame.vision[layer]), shares(frame.frame_time[layer]))
            cells.append(" | ".join(_most(share) for share in sides))
        table.add_row(f"{frame.time_s:.1f} s", *cells)
    return table


def _most(share: dict[int, float], count: int = 3) -> str:
    """The experts with the largest shares: ``3 88%, 1 12%``."""
    named = [f"{e} {100 * s:.0f}%" for e, s in list(share.items())[:count]]
    return ", ".join([*named, "..."] if len(share) > count else named) or "-"
