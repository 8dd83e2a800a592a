"""``timeexpert quickstart``: videos, shards, three stages, evaluation, a table and a page, on a laptop."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "the whole way on a laptop: make videos, build shards, train all stages, evaluate, report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert quickstart``."""
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="changes to the config: train.seed=1")
    parser.add_argument("--config", default="tiny", help="a config with a synth section (default tiny)")
    parser.add_argument("-o", "--out", type=Path, metavar="RUN", help="run folder (default runs/quickstart for tiny)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")


def run(args: argparse.Namespace) -> int:
    """Run everything that is not done yet; the same command again continues."""
    from rich.console import Console

    from timeexpert.quickstart import quickstart

    return quickstart(args.config, args.overrides, args.out, args.device, Console())
