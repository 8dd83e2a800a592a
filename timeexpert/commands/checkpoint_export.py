"""``timeexpert checkpoint export``: the model inside a checkpoint of training, as one Hugging Face folder."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write the model of a checkpoint, made by any number of ranks, as one Hugging Face folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command."""
    parser.add_argument("checkpoint", type=Path, help="a folder under RUN/checkpoints")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the model; must not exist")


def run(args: argparse.Namespace) -> int:
    """Verify, gather the blocks, write; predict, serve and eval take the folder."""
    from rich.console import Console

    from timeexpert.checkpoint import verify, write_folder
    from timeexpert.errors import UserError
    from timeexpert.predict import InferenceConfig, load_model
    from timeexpert.tokenization.text import load_text

    if args.output.exists():
        raise UserError(f"{args.output}: exists already. Choose another --output, or remove it.")
    verify(args.checkpoint)
    model, text = load_model(args.checkpoint), load_text(args.checkpoint)
    inference = InferenceConfig.read(args.checkpoint)

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        text.save(folder)
        inference.write(folder)

    write_folder(args.output, fill)
    console = Console()
    console.print(
        f"stage {inference.stage}, step {inference.global_step}: {args.output}", highlight=False, soft_wrap=True
    )
    return 0
