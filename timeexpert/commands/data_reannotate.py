"""``timeexpert data reannotate``: fragments grouped to events by a model, times refined by rules, every change kept."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timeexpert.reannotation import ReannotateReport

HELP = "group fragments to events with a video LLM and refine their times by rules; settings as key=value"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """steps:
  grouping     a model merges fragments of one event and splits what holds several, until nothing changes;
               grouping.endpoint (any OpenAI-compatible one) or grouping.checkpoint (a model of this project)
               names it, and without either this step is left out
  refinement   times move into the readable clip, off their neighbours, onto cuts, to a minimum length

examples:
  timeexpert data reannotate s.jsonl --media videos -o events
  timeexpert data reannotate s.jsonl --media videos -o events refinement.snap_s=0.3 refinement.close_gap_s=0.2
  timeexpert data reannotate s.jsonl --media videos -o events grouping.endpoint.model=NAME \\
      grouping.endpoint.base_url=http://localhost:8000/v1 grouping.endpoint.key_env=API_KEY grouping.frames=8
  timeexpert data reannotate s.jsonl --media videos -o events grouping.checkpoint=runs/mine

samples.jsonl in the output folder takes the place of SAMPLES.jsonl; reannotate.html shows before and after.
docs/reannotation.md explains every setting. The same command goes on where a run was cut off."""
    parser.add_argument("samples", type=Path, metavar="SAMPLES.jsonl", help="Sample lines, as data convert writes them")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings: refinement.snap_s=0.3")
    parser.add_argument("--media", type=Path, metavar="DIR", help="folder that the samples' video paths start from")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for samples.jsonl, changes.jsonl, ...")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings from a YAML file")
    parser.add_argument("--workers", type=int, help="processes that decode (default: one per core, at most 8)")
    parser.add_argument("--timeout-s", type=float, default=600, help="longest time for one clip (default: 600)")
    parser.add_argument("--print-config", action="store_true", help="print the merged settings and stop")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Re-annotate; 0 where there were samples, 1 where no line was one."""
    import json
    from dataclasses import asdict

    from timeexpert.config import dump, load
    from timeexpert.data.pool import workers_or_default
    from timeexpert.data.progress import shown
    from timeexpert.errors import UserError
    from timeexpert.reannotation import ReannotateConfig, reannotate

    config = load(ReannotateConfig, args.config, args.overrides)
    if args.print_config:
        print(dump(config), end="")
        return 0
    for flag, value, what in (("-o", args.output, "samples.jsonl"), ("--media", args.media, "the clips")):
        if value is None:
            raise UserError(f"data reannotate needs {flag} DIR, the folder for {what}.")
    with shown("re-annotating", quiet=args.json) as progress:
        report = reannotate(
            args.samples,
            args.media,
            args.output,
            config,
            workers=workers_or_default(args.workers),
            timeout_s=args.timeout_s,
            progress=progress,
        )
    from timeexpert.reports.reannotate_page import write_reannotate_page

    write_reannotate_page(args.output, args.media)
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        _print(report)
    return 0 if report.samples > report.bad_input else 1


def _print(report: ReannotateReport) -> None:
    from rich.console import Console

    from timeexpert.reports.terminal import usage_line

    console = Console(highlight=False, markup=False, soft_wrap=True)
    good = report.samples - report.bad_input
    console.print(f"{report.out}: {report.changed_samples} of {good} samples changed")
    console.print(
        f"events: {report.events_before} before, {report.events_after} after, {report.changed_events} changed"
    )
    if report.bad_input:
        console.print(f"bad lines, repeated ids: {report.bad_input} (dropped-input.jsonl)")
    grouped = f"grouped by {report.annotator}" if report.annotator else "nothing grouped: no model is named"
    console.print(grouped + (f", {report.unsettled} still changing at the last round" if report.unsettled else ""))
    for title, counts in (("changes", report.steps), ("untouched", report.untouched)):
        if counts:
            console.print(f"{title}: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()))
    again = f"{report.decoded_now} decoded now, the others measured before"
    console.print(f"{report.clips} clips: {again}; {report.unreadable_clips} unreadable")
    if report.usage:
        console.print(usage_line(report.usage))
    console.print(f"before and after: {report.out}/reannotate.html")
