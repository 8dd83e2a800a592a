"""``timeexpert data inspect``: what is in video files, what is damaged, and which annotations point past the end."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timeexpert.data.mask_tracks import MaskTrack

HELP = "show duration, frame rate, codec and damage of videos; --decode reads every frame once"

EXIT_OK, EXIT_UNREADABLE = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert data inspect``."""
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="videos or .features, or folders to search")
    parser.add_argument("--samples", type=Path, metavar="FILE", help="samples or annotations (.jsonl) to check")
    parser.add_argument("--media", type=Path, metavar="DIR", help="folder that the samples' video paths start from")
    parser.add_argument(
        "--draw", type=Path, metavar="DIR", help="write a PNG per video of --samples that has masks: where they lie"
    )
    parser.add_argument("--decode", action="store_true", help="decode every frame once: finds damage inside files")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode at the same time (1)")
    parser.add_argument("--timeout-s", type=float, default=600.0, help="seconds per file before giving up (600)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Inspect; 1 when a file is unreadable or missing or a line of --samples is bad, else 0."""
    from timeexpert.errors import UserError

    if args.samples is not None and args.media is None:
        raise UserError("--samples needs --media DIR, the folder that its video paths start from.")
    if args.samples is None and not args.paths:
        raise UserError("nothing to inspect: give video files or folders, or --samples FILE --media DIR.")
    if args.draw is not None and args.samples is None:
        raise UserError("--draw needs --samples FILE, whose masks it draws.")
    events, tracks, bad_lines = read_events(args.samples) if args.samples is not None else ({}, {}, [])
    files, skipped = find_videos(args.paths)
    given = {file.absolute() for file in files}
    named = {(args.media / video).absolute(): video for video in events}
    files += [args.media / video for path, video in named.items() if path not in given]
    found = inspect_files(files, decode=args.decode, workers=args.workers, timeout_s=args.timeout_s)
    rows = list(_progress(found, len(files), args.json))
    for row in rows:
        video = named.get(Path(row["path"]).absolute(), "")
        row["events_past_end"] = past_end(events.get(video, []), row.get("duration_s"))
        row["tracks"] = len(tracks.get(video, []))
        if args.draw is not None and row["tracks"] and row["error"] is None:
            row["drawn"], problem = draw_masks(Path(row["path"]), tracks[video], args.draw, video)
            bad_lines += [problem] if problem else []
    unreadable = sum(row["error"] is not None for row in rows)
    report = {"files": rows, "unreadable": unreadable, "bad_lines": bad_lines, "other_files_skipped": skipped}
    _print_json(report) if args.json else _print_table(report)
    return EXIT_UNREADABLE if unreadable or bad_lines else EXIT_OK


def find_videos(paths: list[Path]) -> tuple[list[Path], int]:
    """The files among ``paths``, and videos and features in the folders, by suffix; how many others were skipped."""
    from timeexpert.data.media import FEATURES_SUFFIX, VIDEO_SUFFIXES

    files: list[Path] = []
    skipped = 0
    for path in paths:
        if not path.is_dir():
            files.append(path)  # a missing file is reported with the others
            continue
        inside = sorted(p for p in path.rglob("*") if p.is_file())
        videos = [p for p in inside if p.suffix.lower() in {*VIDEO_SUFFIXES, FEATURES_SUFFIX}]
        skipped += len(inside) - len(videos)
        files += videos
    return list(dict.fromkeys(files)), skipped


def draw_masks(path: Path, tracks: list[MaskTrack], folder: Path, video: str) -> tuple[str | None, str | None]:
    """(the PNG that shows the masks of one video, None), or (None, why there is none)."""
    from timeexpert.errors import UserError
    from timeexpert.reports.mask_sheet import mask_sheet

    out = folder / Path(video).with_suffix(".png")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        mask_sheet(path, tracks, out)
    except UserError as error:
        return None, str(error)
    return str(out), None


def read_events(path: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[MaskTrack]], list[str]]:
    """Events by video of a ``.jsonl`` file, the different tracks of masks by video, and one message per bad line.

    A line is a :class:`~timeexpert.data.records.Sample`, or an annotation {"video", "events": [{"start", "end",
    "caption"}]} (times in seconds). Raises :class:`UserError` where the file is missing.
    """
    from timeexpert.data.records import Sample, SampleError, parse_json
    from timeexpert.errors import UserError

    if not path.is_file():
        raise UserError(f"--samples {path}: no such file. Give a .jsonl file of samples or annotations.")
    events: dict[str, list[dict[str, Any]]] = {}
    tracks: dict[str, list[MaskTrack]] = {}
    bad: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
                sample = Sample.from_json(row if isinstance(row, dict) and "id" in row else _as_sample(row))
            except SampleError as error:
                bad.append(f"{path}:{number}: {error}")
                continue
            events.setdefault(sample.video, []).extend(
                {"line": number, "start_s": e.start_s, "end_s": e.end_s, "text": e.text} for e in sample.events
            )
            known = tracks.setdefault(sample.video, [])
            known += [track for track in dict.fromkeys(sample.tracks) if track not in known]
    return events, tracks, bad


def _as_sample(row: Any) -> dict[str, Any]:
    """An annotation line in the form of a sample, so that the same rules hold for both."""
    from timeexpert.data.records import SampleError

    events = row.get("events") if isinstance(row, dict) else None
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise SampleError("events must be a list of objects with start, end, caption (or the line a sample with id).")
    for i, event in enumerate(events):
        if event.get("start") is None or event.get("end") is None:
            raise SampleError(f"events[{i}] needs start and end, in seconds.")
    return {
        "id": "annotation",
        "video": row.get("video"),
        "task": "dense_captioning",
        "prompt": "annotation",
        "events": [{"start_s": e["start"], "end_s": e["end"], "text": e.get("caption", "")} for e in events],
    }


def past_end(events: list[dict[str, Any]], duration_s: float | None) -> list[dict[str, Any]]:
    """Events that begin at or after the end of the video, or end more than the samples' tolerance after it."""
    from timeexpert.data.records import is_past_end

    if duration_s is None:
        return []
    timed = [event for event in events if event["start_s"] is not None]
    return [e for e in timed if is_past_end(e["start_s"], e["end_s"], duration_s)]


def inspect_files(files: list[Path], *, decode: bool, workers: int, timeout_s: float) -> Iterator[dict[str, Any]]:
    """Yield one row per file, in order, from worker processes: one is killed where a file takes too long."""
    from timeexpert.data.pool import Failed, WorkerPool

    with WorkerPool(inspect_file, workers, timeout_s) as pool:
        for path, row in zip(files, pool.map((path, decode) for path in files), strict=True):
            if isinstance(row, Failed):
                error = f"{path}: {row.reason}. Leave the file out, re-encode it, or raise --timeout-s."
                row = {"path": str(path), "error": error}
            yield row


def inspect_file(path: Path, decode: bool) -> dict[str, Any]:
    """One row: ``path``, ``error`` (or ``None``) and the fields of ``VideoInfo``; with ``decode`` as decoded.

    That of a file of features has ``features`` (what it holds, in words) and fewer fields; ``decode`` reads its values.
    """
    from dataclasses import asdict

    from timeexpert.data.media import is_features
    from timeexpert.data.video import Video, VideoError

    if is_features(path):
        return _inspect_features(path, decode)
    try:
        with Video.open(path) as video:
            info = video.check() if decode else video.info
    except (VideoError, OSError) as error:
        return {"path": str(path), "error": str(error)}
    fields = asdict(info)
    del fields["name"]
    return {"path": str(path), "error": None, "decoded": decode, **fields}


def _inspect_features(path: Path, decode: bool) -> dict[str, Any]:
    from timeexpert.data.features import FeatureFile, FeaturesError  # which needs torch

    try:
        file = FeatureFile(path)
        info = file.info(check=decode)
    except FeaturesError as error:
        return {"path": str(path), "error": str(error)}
    return {"path": str(path), "error": None, "decoded": decode, **info, "features": file.summary}


def _progress(rows: Iterator[Any], total: int, quiet: bool) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    return track(rows, "inspecting", total=total, console=Console(stderr=True), disable=quiet, transient=True)


def _print_json(report: dict[str, Any]) -> None:
    import json

    print(json.dumps(report, allow_nan=False))


def _print_table(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from timeexpert.data.media import is_features

    console = Console()
    table = Table("file", "duration s", "frames", "fps", "size", "rotation", "codec", "pixels", "remarks")
    for row in report["files"]:
        if row["error"] is not None:
            table.add_row(
                escape(row["path"]), *[""] * 7, f"[red]{escape(row['error'].removeprefix(row['path'] + ': '))}[/red]"
            )
            continue
        past = [f"{len(row['events_past_end'])} annotations past the end"] if row["events_past_end"] else []
        if "features" in row:
            told = [escape("; ".join([row["features"], *past]))]
            table.add_row(escape(row["path"]), f"{row['duration_s']:.2f}", str(row["num_frames"]), *[""] * 5, *told)
            continue
        remarks = [row["damage"]] if row["damage"] else []
        remarks += [f"pixels are {row['pixel_aspect']:g} times as wide as high"] if row["pixel_aspect"] != 1 else []
        remarks += [f"starts at {row['first_pts_s']:g} s in the file"] if row["first_pts_s"] else []
        remarks += [f"tracks of masks: {row['tracks']}"] if row["tracks"] else []
        remarks += past
        table.add_row(
            escape(row["path"]),
            f"{row['duration_s']:.2f}",
            str(row["num_frames"]),
            f"{row['fps']:.2f}" + (" variable" if row["variable_frame_rate"] else ""),
            f"{row['width']}x{row['height']}",
            str(row["rotation"]),
            row["codec"],
            row["pix_fmt"],
            escape("; ".join(remarks)),
        )
    console.print(table)
    for row in report["files"]:
        for e in row["events_past_end"]:
            where = f"{row['path']}: line {e['line']}: {e['start_s']:g} to {e['end_s']:g} s ({e['text']})"
            console.print(f"{where} is past the last readable frame ({row['duration_s']:.2f} s)", markup=False)
    for row in report["files"]:
        if row.get("drawn"):
            console.print(f"masks drawn: {row['drawn']}", markup=False, highlight=False, soft_wrap=True)
    for line in report["bad_lines"]:
        console.print(line, style="red", markup=False)
    features = sum(is_features(row["path"]) for row in report["files"])
    console.print(
        f"{len(report['files']) - features} videos, {f'{features} files of features, ' if features else ''}"
        f"{report['unreadable']} unreadable, {len(report['bad_lines'])} bad lines, "
        f"{report['other_files_skipped']} other files skipped"
    )
