"""``timeexpert train CONFIG``: all stages of a config, or the named ones; the same command again continues."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "train the stages of a config; the same command again continues where it stopped"
EXIT_TERMINATED = 143


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert train``."""
    parser.add_argument(
        "config", metavar="CONFIG", help="a YAML file, or the name of one that comes with the package: tiny"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="changes to the config: stages.sft.steps=10"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="RUN", help="run folder (default: runs/NAME of the config)")
    parser.add_argument("--stage", action="append", default=[], metavar="NAME", help="only this stage; may be repeated")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--print-config", action="store_true", help="print the merged config and stop")


def run(args: argparse.Namespace) -> int:
    """Train; 143 when SIGTERM or Ctrl-C asked for a checkpoint and a stop."""
    from timeexpert.config import dump, load
    from timeexpert.paths import config_path
    from timeexpert.stages.config import RunConfig

    config = load(RunConfig, config_path(args.config), args.overrides)
    if args.print_config:
        print(dump(config), end="")
        return 0
    from rich.console import Console
    from rich.markup import escape

    from timeexpert.reports.run_report import write_report
    from timeexpert.stages.loop import Stopped
    from timeexpert.stages.run_folder import RunFolder
    from timeexpert.stages.tables import summary_table
    from timeexpert.stages.train import Trainer

    console = Console()
    folder = RunFolder(args.out or Path("runs") / config.name)
    with folder.locked():
        trainer = Trainer(config, folder, args.device, console)
        try:
            summary = trainer.execute(args.stage)
        except Stopped:
            where = escape(str(folder.path))
            console.print(f"stopped; the state is saved. Continue with the same command ({where}).", soft_wrap=True)
            return EXIT_TERMINATED
        console.print(summary_table(summary))
        report = escape(str(write_report(folder.path, trainer.examples())))
        console.print(f"report: {report}", highlight=False, soft_wrap=True)
    return 0
