"""``timeexpert data convert``: published annotations become samples, and what could not be converted is listed."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from timeexpert.data.formats import Converted, Format
    from timeexpert.data.formats.reading import Row

HELP = "turn published annotations into samples, with a list of what was rejected and why"


@dataclass
class Report:
    """What a conversion did. ``samples`` counts per task, ``rejected`` per kind of reason."""

    format: str
    output: str
    rejected_output: str
    rows: int = 0
    samples: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    clipped_ends: int = 0
    sorted_samples: int = 0
    notes: list[str] = field(default_factory=list)

    def count(self, item: Converted | dict[str, Any]) -> None:
        """Add one sample, line that was gathered of several, or rejection."""
        if isinstance(item, dict):
            self.samples[item["task"]] += 1
            return
        kind = getattr(item, "kind", None)
        if kind is not None:
            self.rejected[kind] += 1
            return
        self.samples[item.task] += 1  # type: ignore[union-attr]
        self.clipped_ends += len(item.meta.get("clipped_ends_s", ()))  # type: ignore[union-attr]
        self.sorted_samples += bool(item.meta.get("sorted"))  # type: ignore[union-attr]

    def rows_of(self, rows: Iterable[Row]) -> Iterator[Row]:
        """``rows``, counted as they pass."""
        for row in rows:
            self.rows += 1
            yield row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("format", help="name of the format, or auto to guess it from the file; 'list' lists the names")
    parser.add_argument("inputs", type=Path, nargs="*", metavar="INPUT", help="annotation file, or several")
    parser.add_argument(
        "-o", "--output", type=Path, help="samples go here (OUT.jsonl), rejections to OUT.rejected.jsonl"
    )
    parser.add_argument("--durations", type=Path, help="JSON of video id and seconds, for formats without durations")
    parser.add_argument("--video-template", help="video path from {id} and {path}, for example 'charades/{id}.mp4'")
    parser.add_argument(
        "--clip-to-duration", action="store_true", help="cut ends past the video's end (default: reject)"
    )
    parser.add_argument("--task", action="append", help="keep only samples of this task; may be repeated")
    parser.add_argument("--source", help="name of the data set (default: the format's name)")
    parser.add_argument(
        "--instructions",
        metavar="FILE",
        help="ask with the questions of FILE (default: data/instructions where the format has none of its own)",
    )
    parser.add_argument("--labels", type=Path, metavar="FILE", help="label sets of action segmentation, by process")
    parser.add_argument("--split", metavar="NAME", help="keep only rows of this split, where a format names them")
    parser.add_argument(
        "--fps", type=float, metavar="F", help="frames per second of videos made from frames (default: the format's)"
    )
    parser.add_argument(
        "--to",
        metavar="FORMAT",
        help="write rows of this format, not samples: industry_asm, loomdata or museg",
    )
    parser.add_argument("--limit", type=int, help="read only the first N rows of each INPUT")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Convert; 0 where there are samples, 1 where there are none."""
    from itertools import chain, islice

    from timeexpert.data.formats import ConvertOptions, detect, get, read_durations
    from timeexpert.data.instructions import load_instructions
    from timeexpert.data.label_sets import read_label_sets

    if args.format == "list":
        _print_formats(args.json)
        return 0
    output, rejected_output = _outputs(args)
    target = _target(args.to)
    options: dict[str, Any] = {"tasks": tuple(args.task)} if args.task else {}
    convert_options = ConvertOptions(
        source=args.source,
        durations=read_durations(args.durations) if args.durations else None,
        video_template=args.video_template,
        clip_to_duration=args.clip_to_duration,
        instructions=load_instructions(args.instructions) if args.instructions else None,
        labels=read_label_sets(args.labels) if args.labels else None,
        split=args.split,
        frame_rate=args.fps,
        **options,
    )
    chosen = [get(detect(path) if args.format == "auto" else args.format) for path in args.inputs]
    report = Report(", ".join(dict.fromkeys(c.name for c in chosen)), str(output), str(rejected_output))
    items = (
        c.convert(path, convert_options, report.rows_of(islice(c.rows(path), args.limit)))
        for c, path in zip(chosen, args.inputs, strict=True)
    )
    _write(chain.from_iterable(items), report, output, rejected_output, target)
    published = {c.splits.get(args.split) for c in chosen if args.split} - {None}
    if published and published != {report.samples.total()} and (target is None or target.gather is None):
        report.notes.append(
            f"{report.samples.total()} samples; {published.pop()} videos are published for {args.split!r}."
        )
    _print_report(report, args.json)
    return 0 if report.samples else 1


def _outputs(args: argparse.Namespace) -> tuple[Path, Path]:
    from timeexpert.errors import UserError

    if not args.inputs or args.output is None:
        raise UserError("data convert needs INPUT and -o OUT.jsonl. 'timeexpert data convert list' lists the formats.")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit ({args.limit}) must be 1 or more.")
    if args.output.suffix != ".jsonl":
        raise UserError(f"--output ({args.output}) must end in .jsonl: samples are written one per line.")
    if not args.output.parent.is_dir():
        raise UserError(f"--output ({args.output}): there is no folder {args.output.parent}. Make it first.")
    names = [path.stem for path in args.inputs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"INPUT {name!r} is there twice: ids are made from file names. Convert them one by one.")
    rejected = args.output.with_suffix(".rejected.jsonl")
    for path in (args.output, rejected):
        if path.exists() and any(given.exists() and path.samefile(given) for given in args.inputs):
            raise UserError(f"--output would overwrite the input ({path}). Give another name.")
    return args.output, rejected


def _target(name: str | None) -> Format | None:
    """The format that is written; None: samples."""
    from timeexpert.data.formats import FORMATS, get
    from timeexpert.errors import UserError

    if name is None:
        return None
    chosen = get(name)
    if chosen.write is None and chosen.gather is None:
        writable = ", ".join(n for n, f in FORMATS.items() if f.write is not None or f.gather is not None)
        raise UserError(f"--to ({name!r}): this format can be read only; there are writers of {writable}.")
    return chosen


def _write(
    items: Iterable[Converted], report: Report, output: Path, rejected_output: Path, target: Format | None
) -> None:
    """Write both files beside their final names, then put them in place; samples only where there are any."""
    from timeexpert.data.formats.base import Rejected, RowError
    from timeexpert.data.records import Sample

    row_of = Sample.to_json if target is None or target.write is None else target.write
    lines: Iterable[Any] = items if target is None or target.gather is None else target.gather(items)
    parts = [path.with_name(f".{path.name}.{os.getpid()}.part") for path in (output, rejected_output)]
    try:
        with open(parts[0], "w", encoding="utf-8") as samples, open(parts[1], "w", encoding="utf-8") as rejected:
            for item in _with_progress(lines, report):
                row = item if isinstance(item, dict) else None
                if isinstance(item, Sample):
                    try:
                        row = row_of(item)
                    except RowError as error:
                        item = Rejected(item.id, error.kind, error.reason, item.to_json())
                report.count(item)
                if row is not None:
                    _write_line(samples, row, ensure_ascii=False)
                else:  # escaped: what was rejected may hold half characters
                    _write_line(rejected, item.to_json(), ensure_ascii=True)
        if report.samples:
            os.replace(parts[0], output)
        os.replace(parts[1], rejected_output)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _write_line(file: TextIO, row: dict[str, Any], *, ensure_ascii: bool) -> None:
    file.write(json.dumps(row, ensure_ascii=ensure_ascii) + "\n")


def _with_progress(items: Iterable[Any], report: Report) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading", total=None)
        for item in items:
            yield item
            progress.update(bar, description=f"{report.rows} rows, {report.samples.total()} samples")


def _print_report(report: Report, as_json: bool) -> None:
    if as_json:
        print(json.dumps(vars(report)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report.format}: {report.rows} rows read", title_justify="left")
    table.add_column("")
    table.add_column("count", justify="right")
    for task, count in sorted(report.samples.items()):
        table.add_row(f"samples: {task}", str(count))
    for kind, count in report.rejected.most_common():
        table.add_row(f"rejected: {kind}", str(count))
    if report.clipped_ends:
        table.add_row("ends cut to the duration", str(report.clipped_ends))
    if report.sorted_samples:
        table.add_row("samples put in order of time", str(report.sorted_samples))
    console = Console()
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
    if report.samples:
        console.print(f"samples:  {report.output}", soft_wrap=True, highlight=False)
    else:
        console.print("nothing was converted; no samples were written", soft_wrap=True, highlight=False)
    console.print(f"rejected: {report.rejected_output}", soft_wrap=True, highlight=False)


def _print_formats(as_json: bool) -> None:
    from timeexpert.data.formats import FORMATS

    if as_json:
        print(json.dumps({name: chosen.description for name, chosen in FORMATS.items()}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("format", "what it reads")
    for name, chosen in FORMATS.items():
        table.add_row(name, chosen.description)
    Console().print(table)
