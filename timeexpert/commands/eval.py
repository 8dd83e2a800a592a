"""``timeexpert eval RUN``: ask every held-out question, keep every answer, score; the same command again continues."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timeexpert.data.records import Sample
    from timeexpert.evaluation.folder import EvaluationFolder
    from timeexpert.predict import Predictor

HELP = "evaluate a run or a model folder: answers that are kept, figures with intervals, a page; resumable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert eval``."""
    parser.add_argument(
        "model", type=Path, metavar="RUN", help="run folder, or a model folder such as checkpoints/tiny"
    )
    parser.add_argument(
        "--data", type=Path, metavar="SHARDS", help="shard folder (default: the run's own held-out data)"
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="evaluation folder (default: eval/DATA in RUN, see docs)"
    )
    parser.add_argument(
        "--task",
        action="append",
        metavar="NAME",
        help="score this only (repeatable; default: all that the data has questions for); 'timeexpert score --task "
        "list' names them; loombench is all of LoomBench",
    )
    parser.add_argument("--convention", default="strict", metavar="NAME", help="how to count (default strict)")
    parser.add_argument("--num-frames", type=int, metavar="N", help="frames per video (default: as trained)")
    parser.add_argument("--max-questions", type=int, metavar="N", help="at most N questions per task (default: all)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="questions at once (default 32)")
    parser.add_argument("--noise-frames", action="store_true", help="control: replace every frame by noise")
    parser.add_argument("--no-intervals", action="store_true", help="no bootstrap intervals")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Evaluate; exit code 0. Under torchrun every rank answers its share, and rank 0 scores."""
    from timeexpert.data.shards import ShardDataset
    from timeexpert.errors import UserError
    from timeexpert.evaluation.folder import EvaluationFolder
    from timeexpert.evaluation.runner import batches, scored_questions, scored_tasks
    from timeexpert.evaluation.tasks import check_convention, expanded, task_named
    from timeexpert.parallel import ParallelConfig, start
    from timeexpert.predict import Predictor
    from timeexpert.stages.answers import NOISE_SEED, answerer, run_eval_data

    for name in ("num_frames", "max_questions", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} ({value}) must be 1 or more.")
    named = [task_named(name) for name in expanded(args.task)] if args.task else None
    check_convention(named or [], args.convention)
    with start(ParallelConfig(shard=1, expert=1), 1, args.device) as (engine, device):
        predictor = Predictor.from_pretrained(args.model, device=device)
        if args.num_frames is not None:
            predictor = predictor.with_config(num_frames=args.num_frames)
        dataset = ShardDataset(args.data or run_eval_data(args.model))
        questions = [dataset.sample(i) for i in range(len(dataset))]
        _check_masks(named or [], predictor)
        wanted = [task.name for task in named] if named else scored_tasks(predictor.draws_masks)
        samples = scored_questions(questions, args.max_questions, dataset.path, wanted)
        tasks = [task for task in map(task_named, wanted) if any(map(task.takes, samples))]
        present = {next(t.asks if t.kind is None else t.name for t in tasks if t.takes(s)) for s in samples}
        check_convention(tasks, args.convention)
        folder = EvaluationFolder(args.out or _default_folder(args, dataset.path), engine.rank)
        settings = _settings(args, predictor, dataset.path, sorted(present))
        opened = folder.opened(settings)
        answered = engine.from_main(lambda: opened.__enter__())
        try:
            pending = [s for batch in batches(samples, len(samples)) for s in batch if s.id not in answered]
            share = pending[engine.rank :: engine.world_size]
            ask = answerer(predictor, dataset, NOISE_SEED if args.noise_frames else None)
            _ask(share, ask, folder, args, engine.world_size)
            engine.gather_beside(None)  # every rank has written its answers
            if engine.is_main:
                _finish(args, folder, samples, [task.name for task in tasks], settings)
        finally:
            if engine.is_main:
                opened.__exit__(None, None, None)
    return 0


def _check_masks(tasks: Sequence[Any], predictor: Predictor) -> None:
    """Raises ``UserError`` where a task needs masks of a model that draws none."""
    from timeexpert.errors import UserError

    without = [task.name for task in tasks if task.needs_masks and not predictor.draws_masks]
    if without:
        family = predictor.model.config.model_type
        others = [task.name for task in tasks if not task.needs_masks] or ["another task"]
        raise UserError(
            f"--task: {', '.join(without)} need masks, and models of the family {family} draw none. Give --task "
            f"{' --task '.join(others)}, or a model of a family that draws masks."
        )


def _ask(share: Sequence[Sample], ask: Any, folder: EvaluationFolder, args: argparse.Namespace, ranks: int) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from timeexpert.evaluation.runner import batches

    console = Console(stderr=args.json, quiet=folder.rank != 0)
    with Progress(console=console, transient=True) as progress:
        words = "questions" if ranks == 1 else f"questions of rank 0 of {ranks}"
        task = progress.add_task(words, total=len(share))
        for batch in batches(share, args.batch_size):
            folder.append(batch, ask(batch))
            progress.advance(task, len(batch))


def _finish(
    args: argparse.Namespace,
    folder: EvaluationFolder,
    samples: Sequence[Sample],
    tasks: Sequence[str],
    settings: dict[str, Any],
) -> None:
    """Merge, score, write metrics.json, report.html and per_question.jsonl, and print."""
    import json

    import torch
    from rich.console import Console
    from rich.markup import escape

    from timeexpert.evaluation.folder import METRICS, REPORT, write_json, writing
    from timeexpert.evaluation.per_question import PER_QUESTION, write_per_question
    from timeexpert.evaluation.results import to_json
    from timeexpert.evaluation.runner import flat, scored_task
    from timeexpert.evaluation.tasks import meteor_for, task_named
    from timeexpert.reports.evaluation_page import write_evaluation_page
    from timeexpert.reports.evaluation_tables import print_tables, task_tables

    answers = folder.merge(samples)
    with meteor_for([task_named(name) for name in tasks]) as meteor:
        scored = {name: scored_task(name, samples, answers, args.convention, meteor) for name in tasks}
    figures = flat(scored, answers)
    document = to_json(scored, with_intervals=not args.no_intervals)
    document["versions"]["torch"] = torch.__version__
    document |= {"model": str(args.model), "settings": settings, "figures": figures}
    unread = figures["unreadable"]
    remarks = [f"{unread} questions could not be asked: their videos or prompts cannot be read."] if unread else []
    with writing(folder.path):
        write_json(folder.path / METRICS, document)
        write_evaluation_page(folder.path / REPORT, f"{args.model.name}: evaluation", document, scored, remarks)
        files = [METRICS, REPORT, *([PER_QUESTION] if write_per_question(folder.path, scored) else [])]
    if args.json:
        print(json.dumps(figures, allow_nan=False))
        return
    console = Console()
    print_tables(console, task_tables(document))
    parsed = figures["parse_rate"]
    console.print(f"questions {figures['questions']}, parse_rate {parsed:.2f}, unreadable {unread}", highlight=False)
    console.print(f"kept in {escape(str(folder.path))}: {', '.join(files)}", highlight=False, soft_wrap=True)


def _default_folder(args: argparse.Namespace, data: Path) -> Path:
    """RUN/eval/DATA; for a model folder, which holds nothing but a model, eval/MODEL-DATA where the command runs."""
    from timeexpert.predict import INFERENCE

    name = data.resolve().name + (".noise_frames" if args.noise_frames else "")
    is_model = (args.model / INFERENCE).is_file()
    return Path("eval") / f"{args.model.resolve().name}-{name}" if is_model else args.model / "eval" / name


def _settings(args: argparse.Namespace, predictor: Predictor, data: Path, tasks: list[str]) -> dict[str, Any]:
    """What the answers depend on: a folder that was begun with other values is refused."""
    from hashlib import sha256

    from timeexpert.checkpoint import MANIFEST
    from timeexpert.predict import resolve_model

    def sum_of(path: Path) -> str:
        return sha256(path.read_bytes()).hexdigest()

    return {
        "format": 1,
        "model": sum_of(resolve_model(args.model) / MANIFEST),
        "data": sum_of(data / "dataset.json"),
        "questions": tasks,
        "max_questions": args.max_questions,
        "num_frames": predictor.config.num_frames,
        "max_new_tokens": predictor.config.max_new_tokens,
        "max_events": predictor.config.max_events,
        "noise_frames": args.noise_frames,
        "device": next(predictor.model.parameters()).device.type,
    }
