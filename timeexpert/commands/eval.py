"""``timeexpert eval RUN``: ask every held-out question and score the answers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "evaluate a run or a model folder on a shard folder: moments, dense captions, highlights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert eval``."""
    parser.add_argument(
        "model", type=Path, metavar="RUN", help="run folder, or a model folder such as checkpoints/tiny"
    )
    parser.add_argument(
        "--data", type=Path, metavar="SHARDS", help="shard folder (default: the run's own held-out data)"
    )
    parser.add_argument("--num-frames", type=int, metavar="N", help="frames per video (default: as trained)")
    parser.add_argument("--max-questions", type=int, metavar="N", help="at most N questions per task (default: all)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="questions at once (default 32)")
    parser.add_argument("--noise-frames", action="store_true", help="control: replace every frame by noise")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="write every answer to this .jsonl file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Evaluate; exit code 0."""
    import json

    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    from timeexpert.data.shards import ShardDataset
    from timeexpert.errors import UserError
    from timeexpert.evaluation.runner import evaluate, scored_questions
    from timeexpert.predict import Predictor
    from timeexpert.stages.answers import NOISE_SEED, answerer, run_eval_data
    from timeexpert.stages.tables import figures_table

    for name in ("num_frames", "max_questions", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} ({value}) must be 1 or more.")
    predictor = Predictor.load(args.model, device=args.device)
    if args.num_frames is not None:
        predictor = predictor.with_config(num_frames=args.num_frames)
    dataset = ShardDataset(args.data or run_eval_data(args.model))
    questions = [dataset.sample(i) for i in range(len(dataset))]
    samples = scored_questions(questions, args.max_questions, dataset.path)
    ask = answerer(predictor, dataset, NOISE_SEED if args.noise_frames else None)
    figures: dict[str, Any] = {}
    console = Console(stderr=args.json)
    with Progress(console=console) as progress:
        task = progress.add_task("questions", total=len(samples))
        steps = evaluate(samples, ask, batch_size=args.batch_size, predictions=args.predictions)
        for done, result in steps:
            progress.update(task, completed=done)
            figures = result or figures
    if args.json:
        print(json.dumps(figures, allow_nan=False))
    else:
        console.print(figures_table(escape(f"{args.model} on {dataset.path}"), figures))
    return 0
