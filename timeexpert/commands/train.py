"""``timeexpert train CONFIG``: all stages of a config, or the named ones; the same command again continues."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "train the stages of a config; the same command again continues where it stopped"


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
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="STEPS",
        help="write the operators of so many steps of each stage to RUN/profile, for Perfetto or chrome://tracing",
    )
    parser.add_argument("--print-config", action="store_true", help="print the merged config and stop")


def run(args: argparse.Namespace) -> int:
    """Train; 143 when SIGTERM or Ctrl-C asked for a checkpoint and a stop."""
    from timeexpert.config import dump, load
    from timeexpert.errors import UserError
    from timeexpert.paths import config_path
    from timeexpert.stages.config import RunConfig

    config = load(RunConfig, config_path(args.config), args.overrides)
    if args.profile < 0:
        raise UserError(f"--profile ({args.profile}) must be 0 or more steps.")
    if args.print_config:
        print(dump(config), end="")
        return 0
    from rich.console import Console

    from timeexpert.parallel import start
    from timeexpert.planner.utilisation import utilisation
    from timeexpert.stages.run_folder import ForeignRunFolder, RunFolder
    from timeexpert.stages.train import Trainer, run_and_report

    path = args.out or Path("runs") / config.name
    with start(config.parallel, config.model.expert_slots, args.device) as (engine, device):
        folder = RunFolder(path) if engine.is_main else ForeignRunFolder(path)
        console = Console(quiet=not engine.is_main)
        with folder.locked():
            trainer = Trainer(config, folder, device, console, engine, args.profile, utilisation)
            return run_and_report(trainer, args.stage)
