"""Whether this node can start a run: config, layout, data, weights, GPUs, run folder. The launchers call it.

``preflight.py NODES RANKS_PER_NODE MIN_FREE_GB`` and the arguments of ``timeexpert train``; RANKS_PER_NODE 0: as many
as there are GPUs. Prints the number of ranks, or the first error, and exits with 2.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from timeexpert.commands import train
from timeexpert.config import ConfigError, load
from timeexpert.data.shards import ShardDataset
from timeexpert.errors import UserError
from timeexpert.parallel.engine import check_deepspeed
from timeexpert.paths import config_path
from timeexpert.stages.config import RunConfig


def check(nodes: int, ranks_per_node: int, min_free_gb: float, arguments: Sequence[str]) -> int:
    """Ranks to start on this node. Raises :class:`UserError` for what would stop the run."""
    parser = argparse.ArgumentParser(prog="timeexpert train")
    train.add_arguments(parser)
    args = parser.parse_intermixed_args(arguments)
    config = load(RunConfig, config_path(args.config), args.overrides)
    ranks = check_devices(args.device, ranks_per_node)
    if config.parallel.engine == "deepspeed":
        check_deepspeed()
    config.parallel.degrees(nodes * ranks, config.model.expert_slots, ranks)
    check_data(config, args.stage, nodes * ranks)
    check_folder(args.out or Path("runs") / config.name, min_free_gb)
    return ranks


def check_devices(device: str, ranks: int) -> int:
    """The number of ranks; a GPU for each of them unless the run is to use CPUs."""
    if device == "cpu":
        if ranks == 0:
            raise ConfigError("--device cpu needs a number of ranks. Set RANKS_PER_NODE, to 2 for example.")
        return ranks
    import torch

    gpus = torch.cuda.device_count()
    if gpus == 0 or ranks > gpus:
        asked = f"RANKS_PER_NODE asks for {ranks}" if ranks else "a run needs one"
        raise ConfigError(
            f"torch {torch.__version__} sees {gpus} GPUs on this node, and {asked}. Check nvidia-smi and "
            "CUDA_VISIBLE_DEVICES, set RANKS_PER_NODE, or train on the CPU: --device cpu with RANKS_PER_NODE=2."
        )
    return ranks or gpus


def check_data(config: RunConfig, only: Sequence[str], ranks: int) -> None:
    """Weights, tokenizer and the shard folders of the stages that will be trained."""
    names = [stage.name for stage in config.stages]
    for name in only:
        if name not in names:
            raise ConfigError(f"--stage {name!r} is not a stage of this config; there are {', '.join(names)}.")
    pretrained = config.model.pretrained
    if pretrained is not None and not (Path(pretrained) / "config.json").is_file():
        raise ConfigError(
            f"model.pretrained ({pretrained}): no config.json there. Give the folder that 'timeexpert convert' wrote."
        )
    if config.text.tokenizer == pretrained and not any(Path(pretrained or "").glob("*token*")):
        if not (Path(pretrained or "") / "sentencepiece.model").is_file():
            raise ConfigError(f"text.tokenizer ({pretrained}): no tokenizer in this folder.")
    stages = [stage for stage in config.stages if not only or stage.name in only]
    folders: dict[str, str] = {}
    for stage in stages:
        stage.check_ranks(ranks)
        folders |= {f"data.train.{name}": config.data.train[name] for name in stage.mix}
    if config.data.eval is not None and any(stage.evaluate for stage in stages):
        folders["data.eval"] = config.data.eval
    for key, folder in folders.items():
        try:
            ShardDataset(Path(config.data.root) / folder)
        except UserError as error:
            raise ConfigError(f"{key} ({folder}, data.root {config.data.root}): {error}") from None


def check_folder(folder: Path, min_free_gb: float) -> None:
    """That files can be written where the run will be, and that there is room for them."""
    place = folder.absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(bytes(1 << 16))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise ConfigError(f"{folder}: not a usable run folder: {error.strerror}. Choose another with --out.") from None
    free_gb = shutil.disk_usage(place).free / 1e9
    if free_gb < min_free_gb:
        raise ConfigError(
            f"{folder}: {free_gb:.1f} GB are free, and MIN_FREE_GB asks for {min_free_gb:g}. Free some, or choose "
            "another folder with --out."
        )


def main() -> int:
    """Print the number of ranks, or an error."""
    try:
        nodes, ranks, free_gb = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
        if not free_gb.replace(".", "", 1).isdigit():
            raise ConfigError(f"MIN_FREE_GB ({free_gb}) must be a number of GB.")
        print(check(nodes, ranks, float(free_gb), sys.argv[4:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
