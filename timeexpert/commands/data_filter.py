"""``timeexpert data filter``: which samples are dropped before training, by which filter, and why."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timeexpert.data.filters import FilterReport

HELP = "drop misaligned, generic, inconsistent and cut samples, each with its reason; settings as key=value"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """filters, in the order in which they run unless filters=[...] says otherwise:
  timestamps   times past the last readable frame, durations that differ from the file's, unreadable clips
  captions     captions that say nothing, by rules
  consistency  answers that do not answer their prompt: by an OpenAI-compatible endpoint, or by rules
  cuts         events with an abrupt cut inside
  alignment    events that fit better elsewhere in the clip

examples:
  timeexpert data filter s.jsonl --media videos -o filtered
  timeexpert data filter s.jsonl -o filtered filters=[captions,consistency]
  timeexpert data filter s.jsonl --media videos -o filtered cuts.threshold=4 alignment.action=flag
  timeexpert data filter s.jsonl --media videos -o filtered consistency.endpoint.model=NAME \\
      consistency.endpoint.base_url=http://localhost:8000/v1 consistency.endpoint.key_env=API_KEY

docs/filters.md explains every setting. The same command goes on where a run was cut off."""
    parser.add_argument("samples", type=Path, metavar="SAMPLES.jsonl", help="Sample lines, as data convert writes them")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings: cuts.threshold=4")
    parser.add_argument("--media", type=Path, metavar="DIR", help="folder that the samples' video paths start from")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for kept.jsonl, dropped-*.jsonl, ...")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings from a YAML file")
    parser.add_argument("--labels", type=Path, metavar="FILE.jsonl", help="labelled examples: curves for thresholds")
    parser.add_argument("--workers", type=int, help="processes that decode (default: one per core, at most 8)")
    parser.add_argument("--timeout-s", type=float, default=600, help="longest time for one clip (default: 600)")
    parser.add_argument("--print-config", action="store_true", help="print the merged settings and stop")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Filter; 0 where something was kept, 1 where nothing was."""
    import json
    from dataclasses import asdict

    from timeexpert.config import dump, load
    from timeexpert.data.filters import FilterConfig, run_filters
    from timeexpert.data.filters.curves import read_labels
    from timeexpert.data.pool import workers_or_default
    from timeexpert.data.progress import shown
    from timeexpert.errors import UserError

    config = load(FilterConfig, args.config, args.overrides)
    if args.print_config:
        print(dump(config), end="")
        return 0
    if args.output is None:
        raise UserError("data filter needs -o DIR, the folder for kept.jsonl and the reasons.")
    with shown("filtering", quiet=args.json) as progress:
        report = run_filters(
            args.samples,
            args.media,
            args.output,
            config,
            workers=workers_or_default(args.workers),
            timeout_s=args.timeout_s,
            labels=read_labels(args.labels) if args.labels is not None else None,
            progress=progress,
        )
    from timeexpert.reports.filter_page import write_filter_page

    write_filter_page(args.output, args.media)
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        _print(report)
    return 0 if report.kept else 1


def _print(report: FilterReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from timeexpert.reports.terminal import usage_line

    table = Table("filter", "judged", "dropped", "flagged", "not measured", "why", title_justify="left")
    table.title = escape(f"{report.out}: {report.kept} of {report.samples} samples kept")
    for column in table.columns[1:5]:
        column.justify = "right"
    if report.bad_input:
        table.add_row("(input)", str(report.samples), str(report.bad_input), "", "", "bad lines or repeated ids")
    for name, stage in report.stages.items():
        faults = sum(stage.faults.values())
        dropped, flagged = (faults, 0) if stage.action == "drop" else (0, faults)
        why = ", ".join(f"{escape(kind)} {count}" for kind, count in stage.faults.items())
        unmeasured = sum(stage.unmeasured.values())
        table.add_row(name, *(str(n) if n else "" for n in (stage.judged, dropped, flagged, unmeasured)), why)
    console = Console()
    console.print(table)
    if report.clips:
        again = f"{report.decoded_now} decoded now, the others measured before"
        console.print(f"{report.clips} clips: {again}; {report.unreadable_clips} unreadable", highlight=False)
    if report.costs.get("usage"):
        console.print(usage_line(report.costs["usage"]), highlight=False)
    for name, found in report.calibration.items():
        at = found.at
        now = f"at {at['threshold']:g}: recall {at['recall']:.1%}, false alarms {at['false_alarms']:.2%}"
        best = f"; best: {name}.threshold={found.best['threshold']:.3g}" if found.best else ""
        console.print(f"{name}, {found.faults} labelled faults, {now}{best}", highlight=False, markup=False)
    console.print(
        f"reasons, curves and examples: {report.out}/filter.html", highlight=False, markup=False, soft_wrap=True
    )
