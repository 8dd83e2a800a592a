"""``timeexpert experts report RUN``: which experts a run uses, for what, and which are dead."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from timeexpert.reports.experts import ExpertReport

HELP = "show how the experts of a run are used: load, dead experts, token types, experts added and removed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert experts report``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, with its metrics.jsonl")
    parser.add_argument("--html", type=Path, metavar="OUT", help="also write an HTML page to this file")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--stage", help="only this stage (default: all stages; tables show the last record)")


def run(args: argparse.Namespace) -> int:
    """Print the report; returns the exit code."""
    from timeexpert.reports import ReportError
    from timeexpert.reports.experts import expert_report, experts_page
    from timeexpert.reports.style import write_page

    report = expert_report(args.run, args.stage)
    if args.html is not None:
        try:
            write_page(args.html, experts_page(report))
        except OSError as error:
            raise ReportError(f"--html {args.html}: cannot be written ({error.strerror}). Give another file.") from None
    if args.json:
        print(json.dumps(report.to_json(), allow_nan=False))
    else:
        _print_tables(report)
        if args.html is not None:
            print(f"wrote {args.html}")
    return 0


def _print_tables(report: ExpertReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    last = report.last
    layers = Table(
        title=_plain(f"Experts of {report.run}: stage {last.stage}, step {last.global_step}"), title_justify="left"
    )
    for name in ("layer", "active", "dead", "mean k", "fallback", "evenness", "utilization (1 is fair)"):
        layers.add_column(name, justify="left" if name == "dead" else "right")
    for layer in last.layers:
        used = [u for u in layer.utilization if u is not None]
        dead = ", ".join(map(str, layer.dead))
        layers.add_row(
            str(layer.layer),
            f"{sum(layer.active)} / {len(layer.active)}",
            Text(dead, style="bold red") if dead else Text("none", style="dim"),
            "-" if layer.mean_k is None else f"{layer.mean_k:.2f}",
            "-" if layer.fallback is None else f"{100 * layer.fallback:.1f} %",
            f"{layer.entropy:.3f}",
            f"{min(used, default=0):.2f} to {max(used, default=0):.2f}",
        )
    console.print(layers)
    ranks = Table(title="Most used | least used experts by token type", title_justify="left")
    ranks.add_column("layer", justify="right")
    for token_type in last.token_types:
        ranks.add_column(_plain(token_type))
    for layer in last.layers:
        ranks.add_row(str(layer.layer), *(Text(_ends(layer.ranked(t))) for t in last.token_types))
    console.print(ranks)
    edits = Table(title="Experts added and removed (last 20)", title_justify="left")
    columns = ("stage", "global_step", "layer", "expert", "action", "reason")
    for name in columns:
        edits.add_column(name)
    for edit in report.edits[-20:]:
        edits.add_row(*(_plain(str(edit.get(name, "-"))) for name in columns))
    console.print(edits if report.edits else Text("No experts were added or removed."))
    for note in report.notes:
        console.print(_plain(f"note: {note}", style="yellow"))


def _plain(text: str, style: str = "") -> Text:
    """Text from a file as it stands: no markup, no control characters for the terminal to obey."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else "\ufffd" for c in text), style=style)


def _ends(ranked: list[int]) -> str:
    """The first and the last experts of a ranking: ``4 1 7 | 3 0``."""
    from timeexpert.reports.experts import RANKED

    if not ranked:
        return "not seen"
    top, bottom = ranked[:RANKED], ranked[RANKED:][::-1][:RANKED]
    return " ".join(map(str, top)) + (" | " + " ".join(map(str, bottom)) if bottom else "")
