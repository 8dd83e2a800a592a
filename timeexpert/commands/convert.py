"""``timeexpert convert ARIA -o OUT``: ARIA's weights become a model folder to train from, and back.

``--compact`` makes a smaller folder of a model of ours: without the slots that hold no expert.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timeexpert.model import TimeExpert
    from timeexpert.tokenization.text import TextTokenizer

HELP = "make a model folder from ARIA's published weights (a local folder), ARIA from a model, or a model compact"
SHARD_BYTES = 5 * 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert convert``."""
    parser.add_argument(
        "source", type=Path, metavar="FOLDER", help="ARIA's folder; with --to-aria or --compact a run or model folder"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as model.moe.alpha=0.02")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write")
    parser.add_argument("--config", default="aria", help="config whose `model` shapes the weights (default: aria)")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--to-aria", action="store_true", help="write ARIA's tensors from a model of ours")
    way.add_argument("--compact", action="store_true", help="drop the empty expert slots of a model of ours")
    parser.add_argument(
        "--spelling",
        choices=("released", "transformers"),
        default="released",
        help="names of ARIA's tensors (default: released, which transformers reads too)",
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="of the weights (default: as they are stored)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    """Convert one folder."""
    from transformers.utils.logging import disable_progress_bar

    from timeexpert.errors import UserError

    disable_progress_bar()
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise UserError(f"{args.output}: exists already. Give a new folder with -o, or remove it.")
    if (args.to_aria or args.compact) and args.overrides:
        way = "--to-aria" if args.to_aria else "--compact"
        raise UserError(f"{args.overrides[0]}: settings shape a model of ours; with {way} there is nothing to set.")
    if args.compact and args.dtype:
        raise UserError(f"--dtype {args.dtype}: --compact leaves the weights as they are stored. Leave --dtype out.")
    row = (to_aria_folder if args.to_aria else compact_folder if args.compact else from_aria_folder)(args)
    if args.json:
        print(json.dumps(row))
    else:
        _print(row)
    return 0


def from_aria_folder(args: argparse.Namespace) -> dict[str, Any]:
    """Weights, tokenizer and inference settings of a TimeExpert that starts from ARIA."""
    import torch

    from timeexpert.checkpoint import write_folder
    from timeexpert.config import load
    from timeexpert.errors import UserError
    from timeexpert.families.timeexpert.settings import ModelConfig
    from timeexpert.model.weights import from_aria
    from timeexpert.paths import config_path
    from timeexpert.predict import InferenceConfig
    from timeexpert.stages.config import RunConfig
    from timeexpert.stages.models import model_config

    config = load(RunConfig, config_path(args.config), args.overrides)
    if not isinstance(config.model, ModelConfig):
        raise UserError(f"{args.config}: ARIA's weights are for model.family timeexpert, not {config.model.family}.")
    text = _tokenizer(args.source, config.text.prompt_format)
    dtype = getattr(torch, args.dtype) if args.dtype else None
    model, report = from_aria(args.source, model_config(config, text), dtype=dtype)
    model.embedding.initialise_numbers(text.digit_ids(), text.point_id())
    settings = InferenceConfig(config.eval.num_frames, config.eval.max_new_tokens, config.eval.max_events, "aria", 0)

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        text.save(folder)
        settings.write(folder)

    write_folder(args.output, fill)
    parts = {"loaded": report.loaded, "new": report.new, "left_out": report.unused}
    return {"folder": str(args.output), **{name: list(names) for name, names in parts.items()}, **_size(model)}


def to_aria_folder(args: argparse.Namespace) -> dict[str, Any]:
    """ARIA's safetensors, config and tokenizer from a model folder of ours."""
    import torch

    from timeexpert.checkpoint import verify, write_folder
    from timeexpert.families import check_family
    from timeexpert.model import TimeExpert
    from timeexpert.model.weights import aria_config, left_out, to_aria
    from timeexpert.predict import resolve_model
    from timeexpert.tokenization.text import load_text

    source = resolve_model(args.source)
    check_family(source, "timeexpert", "--to-aria")
    verify(source)
    model = TimeExpert.from_pretrained(source, local_files_only=True, use_safetensors=True)
    if args.dtype:
        model.to(getattr(torch, args.dtype))
        model.config.dtype = getattr(torch, args.dtype)
    text = load_text(source)
    state, config = to_aria(model, args.spelling), aria_config(model)

    def fill(folder: Path) -> None:
        _write_shards(folder, state)
        config.to_json_file(folder / "config.json")
        text.save(folder)

    write_folder(args.output, fill)
    names = {"loaded": list(state), "new": [], "left_out": left_out(model)}
    return {"folder": str(args.output), **names, **_size(model)}


def compact_folder(args: argparse.Namespace) -> dict[str, Any]:
    """A model folder of ours without empty expert slots; it answers as before."""
    import shutil

    from timeexpert.checkpoint import verify, write_folder
    from timeexpert.families import check_family
    from timeexpert.model.compact import compact
    from timeexpert.predict import INFERENCE, load_model, resolve_model
    from timeexpert.tokenization.text import load_text

    source = resolve_model(args.source)
    check_family(source, "timeexpert", "--compact")
    verify(source)
    model, text = load_model(source), load_text(source)
    small = compact(model)

    def fill(folder: Path) -> None:
        small.save_pretrained(folder)
        text.save(folder)
        shutil.copyfile(source / INFERENCE, folder / INFERENCE)

    write_folder(args.output, fill)
    empty = [sum(not on for on in gate.active_experts.tolist()) for gate in model.gates]
    left = [sum(not on for on in gate.active_experts.tolist()) for gate in small.gates]
    dropped = [f"layer {i}: {a - b} empty slots" for i, (a, b) in enumerate(zip(empty, left, strict=True)) if a > b]
    return {
        "folder": str(args.output),
        "loaded": list(small.state_dict()),
        "new": [],
        "left_out": dropped,
        **_size(small),
    }


def _tokenizer(folder: Path, prompt_format: str) -> TextTokenizer:
    """The tokenizer in ARIA's folder, with as many ids as its embedding has rows."""
    from timeexpert.model.weights import WeightsError
    from timeexpert.tokenization.text import MODEL_FILE, HuggingFaceText, load_text

    file = folder / "config.json"
    try:
        size = json.loads(file.read_text(encoding="utf-8"))["text_config"]["vocab_size"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{file}: text_config.vocab_size cannot be read: {error!r}. Give ARIA's folder.") from None
    if not isinstance(size, int):
        raise WeightsError(f"{file}: text_config.vocab_size ({size!r}) must be a whole number.")
    if (folder / MODEL_FILE).is_file():
        return load_text(folder)
    return HuggingFaceText.load(folder, prompt_format, size)


def _write_shards(folder: Path, state: dict[str, Any]) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    plan = split_torch_state_dict_into_shards(state, max_shard_size=SHARD_BYTES)
    for name, tensors in plan.filename_to_tensors.items():
        save_file({t: state[t].contiguous() for t in tensors}, folder / name, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def _size(model: TimeExpert) -> dict[str, Any]:
    return {"parameters": sum(p.numel() for p in model.parameters()), "dtype": str(model.dtype).removeprefix("torch.")}


def _print(row: dict[str, Any]) -> None:
    import re

    from rich.console import Console
    from rich.table import Table

    console = Console()
    titles = {"loaded": "taken over", "new": "new, to be trained", "left_out": "left out"}
    for key, title in titles.items():
        groups: dict[str, int] = {}
        for name in row[key]:
            name = re.sub(r"\.\d+\.", ".*.", name)
            groups[name] = groups.get(name, 0) + 1
        if key == "loaded" or not groups:
            console.print(f"{title}: {len(row[key])} tensors")
            continue
        table = Table(f"{title}: tensors", "count", title_justify="left")
        for name, count in groups.items():
            table.add_row(name, str(count))
        console.print(table)
    size = f"{row['parameters']:,} parameters, {row['dtype']}"
    console.print(f"{row['folder']}: {size}", highlight=False, soft_wrap=True)
