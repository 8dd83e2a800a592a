"""``timeexpert annotate VIDEOS``: who does what, when and where, as samples with times and masks (LoomData)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timeexpert.loomdata import AnnotateReport

HELP = "videos to samples with timed actions and masks of the main person (LoomData); settings as key=value"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """steps, each resumable, for all videos one after the other:
  shots         PySceneDetect's cuts joined with kernel temporal segmentation
  person        GroundingDINO's best box on the centre frame of the longest shot
  description   the person in words, from the endpoint
  track         SAM2 through the video
  find, fill    shots without a tracklet: GroundingDINO with the description, then SAM2
  verify        people, in two rounds, with --verify; verify=false goes on without
  actions       marked, numbered frames to the endpoint, ranges of frames back; then samples and shards

examples:
  timeexpert annotate videos -o loom endpoint.base_url=http://localhost:8000/v1 endpoint.model=NAME
  timeexpert annotate videos -o loom --verify                  # a page on this machine; then the first command again
  timeexpert annotate videos -o loom --config loom.yaml person.min_score=0.3 shots.max_shots=20

docs/loomdata.md has the whole path, --print-config every setting. The same command goes on where a run was cut off."""
    parser.add_argument("videos", type=Path, metavar="VIDEOS", help="folder of videos, or one video")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings: shots.max_shots=20")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for samples, shards and all results")
    parser.add_argument("--verify", action="store_true", help="serve the page on which people verify the masks")
    parser.add_argument("--port", type=int, default=8001, help="of the page; 0 takes any free one (default: 8001)")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings from a YAML file")
    parser.add_argument("--workers", type=int, help="processes that decode (default: one per core, at most 8)")
    parser.add_argument("--timeout-s", type=float, default=600, help="longest time to decode a video (default: 600)")
    parser.add_argument("--print-config", action="store_true", help="print the merged settings and stop")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Annotate, or serve the page; 0 where there are samples or people are to verify, 1 where nothing came of it."""
    import json
    from dataclasses import asdict

    from timeexpert.config import dump, load
    from timeexpert.data.pool import workers_or_default
    from timeexpert.data.progress import shown
    from timeexpert.errors import UserError
    from timeexpert.loomdata import AnnotateConfig, annotate

    config = load(AnnotateConfig, args.config, args.overrides)
    if args.print_config:
        print(dump(config), end="")
        return 0
    if args.output is None:
        raise UserError("annotate needs -o DIR, the folder for samples and all results.")
    if args.verify:
        return _verify(args.videos, args.output, args.port)
    with shown("annotating", quiet=args.json) as progress:
        report = annotate(
            args.videos,
            args.output,
            config,
            workers=workers_or_default(args.workers),
            timeout_s=args.timeout_s,
            progress=progress,
        )
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        _print(report)
    return 0 if report.samples or report.waiting else 1


def _verify(videos: Path, out: Path, port: int) -> int:
    from timeexpert.errors import UserError

    if not 0 <= port <= 65535:
        raise UserError(f"--port ({port}) must be a number from 0 to 65535.")
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed. Run: pip install 'timeexpert[loomdata]'") from None
    from timeexpert.loomdata.run import find_videos
    from timeexpert.loomdata.verify_app import serve

    _, names = find_videos(videos)
    serve(out, port, names=set(names), ready=lambda url: print(f"verify at {url}/ ; Ctrl-C stops the page", flush=True))
    return 0


def _print(report: AnnotateReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{report.out}: {report.annotated} of {report.videos} videos annotated")
    console.print(f"{report.stretches} stretches, {report.samples} samples, {report.shards} shards")
    if report.left_out:
        kinds = ", ".join(f"{kind} {count}" for kind, count in report.left_out.items())
        console.print(f"left out: {kinds} (left-out.jsonl)")
    table = Table("step", "videos", "seconds", "frames", "requests", "tokens", title="cost of all runs so far")
    priced = any(cost.get("cost") for cost in report.cost.values())
    if priced:
        table.add_column("money")
    table.title_justify = "left"
    for column in table.columns[1:]:
        column.justify = "right"
    for step, cost in report.cost.items():
        tokens = cost["prompt_tokens"] + cost["completion_tokens"]
        numbers = (cost["videos"], cost["seconds"], cost["frames"], cost["requests"], tokens)
        cells = [f"{number:g}" if number else "" for number in numbers]
        table.add_row(step, *cells, *([_money(cost.get("cost"))] if priced else []))
    console.print(table)
    if untold := sum(cost.get("without_usage", 0) for cost in report.cost.values()):
        console.print(f"{untold:g} answers came without a count of tokens; the tokens are those of the others.")
    if report.waiting:
        console.print(f"{report.waiting} videos wait for people: timeexpert annotate ... -o {report.out} --verify")
        console.print("Then run this command again. Shards are written when no video waits any more.")


def _money(cost: float | None) -> str:
    return "?" if cost is None else f"{cost:.4g}" if cost else ""
