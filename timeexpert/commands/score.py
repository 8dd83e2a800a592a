"""``timeexpert score``: score anybody's predictions, compare two sets of them, or run the reference cases."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from timeexpert.evaluation.files import Reference
    from timeexpert.evaluation.results import Scored

HELP = "score predictions without a model; --oracle runs reference cases and says what agrees"
NAMED = 5  # unknown ids and bad rows that are named one by one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert score``."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="*",
        metavar="FILE",
        help="PREDICTIONS REFERENCES; with --compare REFERENCES alone. References are samples, a shard folder or a "
        "published annotation file",
    )
    parser.add_argument(
        "--task", action="append", metavar="NAME", help="what to score (repeatable); 'list' names the tasks"
    )
    parser.add_argument("--convention", default="strict", metavar="NAME", help="how to count (default strict)")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="paired differences of two files")
    parser.add_argument("--format", default="auto", metavar="NAME", help="shape of the predictions (default auto)")
    parser.add_argument(
        "--references-format", default="auto", metavar="NAME", help="as in timeexpert data convert list (default auto)"
    )
    parser.add_argument(
        "--also-references",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="dense captions of the same videos by further annotators (ActivityNet's val_2; repeatable)",
    )
    parser.add_argument("--durations", type=Path, metavar="FILE", help="JSON of seconds by video, for references")
    parser.add_argument("--no-intervals", action="store_true", help="no bootstrap intervals")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="DIR",
        help="write metrics.json and report.html here, and per_question.jsonl for LoomBench",
    )
    parser.add_argument(
        "--oracle", type=Path, metavar="DIR", help="run every reference case in DIR; exit 1 on a difference"
    )
    parser.add_argument(
        "--family", action="append", metavar="NAME", help="with --oracle: this family only (repeatable)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Exit code 0, or 1 where a figure differs from its reference."""
    from rich.console import Console

    from timeexpert.errors import UserError
    from timeexpert.evaluation.file_tasks import FILE_TASKS
    from timeexpert.evaluation.tasks import TASKS, check_convention, expanded, named

    console = Console(stderr=args.json)
    if args.oracle is not None:
        return _oracle(args, console)
    known: dict[str, Any] = {**TASKS, **FILE_TASKS}
    if args.task == ["list"]:
        for task in known.values():
            print(f"{task.name}: {task.summary} (conventions: {', '.join(task.conventions)})")
        return 0
    wanted = 1 if args.compare else 2
    if len(args.files) != wanted:
        usage = "--compare A B REFERENCES" if args.compare else "PREDICTIONS REFERENCES"
        raise UserError(f"give {usage}, or --oracle DIR; {len(args.files)} files were given.")
    if not args.task:
        raise UserError(f"give --task: one or more of {', '.join(known)}.")
    args.task = expanded(args.task)
    tasks = [named(known, name) for name in args.task]
    check_convention(tasks, args.convention)
    return _compare(args, console) if args.compare else _score(args, console)


def _score(args: argparse.Namespace, console: Console) -> int:
    import json

    from timeexpert.evaluation.folder import METRICS, REPORT, write_json, writing
    from timeexpert.evaluation.per_question import write_per_question
    from timeexpert.evaluation.results import to_json
    from timeexpert.reports.evaluation_page import write_evaluation_page
    from timeexpert.reports.evaluation_tables import print_tables, task_tables

    predictions, references = args.files
    scored, files = _scored(args, predictions, references)
    document = to_json(scored, with_intervals=not args.no_intervals) | {"predictions": str(predictions), **files}
    remarks = _remarks(files)
    if args.out is not None:
        _make(args.out)
        title = f"{predictions.name} on {references.name}"
        with writing(args.out):
            write_json(args.out / METRICS, document)
            write_evaluation_page(args.out / REPORT, title, document, scored, remarks)
            write_per_question(args.out, scored)
    if args.json:
        print(json.dumps(document, allow_nan=False))
        return 0
    print_tables(console, [*task_tables(document), *remarks])
    return 0


def _compare(args: argparse.Namespace, console: Console) -> int:
    import json

    from timeexpert.evaluation.folder import write_json, writing
    from timeexpert.evaluation.results import LEVEL, RESAMPLES, SEED, differences, versions
    from timeexpert.reports.evaluation_tables import difference_tables, print_tables

    (references,) = args.files
    (a, files_a), (b, files_b) = (_scored(args, path, references) for path in args.compare)
    compared = differences(a, b)
    document = {
        "format": 1,
        "a": {"predictions": str(args.compare[0]), **files_a},
        "b": {"predictions": str(args.compare[1]), **files_b},
        "convention": args.convention,
        "interval": {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED},
        "tasks": compared,
        "counts": {name: {"a": dict(a[name].scores.counts), "b": dict(b[name].scores.counts)} for name in compared},
        "versions": versions(),
    }
    if args.out is not None:
        _make(args.out)
        with writing(args.out):
            write_json(args.out / "comparison.json", document)
    if args.json:
        print(json.dumps(document, allow_nan=False))
        return 0
    print_tables(console, difference_tables(compared))
    for path, files in zip(args.compare, (files_a, files_b), strict=True):
        print_tables(console, [f"{path.name}: {remark}" for remark in _remarks(files)])
    return 0


def _scored(args: argparse.Namespace, path: Path, references: Path) -> tuple[dict[str, Scored], dict[str, Any]]:
    """Every task's scores, and what is to be said of the two files."""
    from timeexpert.data.formats import read_durations
    from timeexpert.errors import UserError
    from timeexpert.evaluation.file_tasks import FILE_TASKS, Given
    from timeexpert.evaluation.files import match, read_predictions, read_references
    from timeexpert.evaluation.results import Scored
    from timeexpert.evaluation.tasks import TASKS, meteor_for, score_task

    durations = read_durations(args.durations) if args.durations else None
    predictions, paths = None, Given(path, references)
    asked: dict[str, list[Reference]] = {}
    in_rows = paths.holds_loombench
    scored: dict[str, Scored] = {}
    matching: dict[str, Any] = {}
    with meteor_for([{**TASKS, **FILE_TASKS}[name] for name in args.task]) as meteor:
        for name in args.task:
            if name in FILE_TASKS and (in_rows or name not in TASKS):
                scores, extra = FILE_TASKS[name].score(paths, args.convention, meteor)
                scored[name], by = Scored([], [], scores), "name"
            else:
                task = TASKS[name]
                predictions = predictions or read_predictions(path, args.format)
                if task.asks not in asked:
                    given = {"format": args.references_format, "durations": durations, "also": args.also_references}
                    asked[task.asks] = read_references(references, task.asks, **given)
                own = [reference for reference in asked[task.asks] if task.takes(reference.sample)]
                if not own:
                    raise UserError(
                        f"{references}: holds no {name} question. Give other references, or another --task."
                    )
                matched = match(own, predictions)
                samples = [reference.sample for reference in own]
                scores = score_task(task, samples, matched.told, args.convention, meteor)
                scored[name], by, extra = Scored(samples, matched.told, scores), matched.key, matched.extra
            matching[name] = {"matched_by": by, "extra": len(extra), "extra_ids": extra[:NAMED]}
    bad_rows = [*(predictions.bad_rows if predictions else []), *paths.bad_rows]
    files = {
        "references": str(references),
        "format": predictions.format if predictions else None,
        "matching": matching,
        "bad_rows": len(bad_rows),
        "bad_row_places": bad_rows[:NAMED],
        "repeated": (predictions.repeated if predictions else 0) + paths.repeated,
    }
    return scored, files


def _remarks(files: dict[str, Any]) -> list[str]:
    remarks = []
    for name, told in files["matching"].items():
        if told["extra"]:
            shown = ", ".join(told["extra_ids"]) + (", ..." if told["extra"] > NAMED else "")
            remarks.append(f"{name}: {told['extra']} answers are about no reference ({told['matched_by']} {shown}).")
    if files["bad_rows"]:
        shown = "; ".join(files["bad_row_places"])
        remarks.append(f"{files['bad_rows']} rows name no question and were not scored: {shown}.")
    if files["repeated"]:
        remarks.append(f"{files['repeated']} answers repeat a question that was answered before; the first counts.")
    return remarks


def _make(folder: Path) -> None:
    from timeexpert.errors import UserError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}. Choose another -o.") from None


def _oracle(args: argparse.Namespace, console: Console) -> int:
    import json
    from dataclasses import asdict

    from rich.markup import escape
    from rich.progress import Progress

    from timeexpert.errors import UserError, did_you_mean
    from timeexpert.evaluation.oracle import families, run_family
    from timeexpert.reports.evaluation_tables import oracle_table

    known = families(args.oracle)
    chosen = args.family or known
    for name in chosen:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"{args.oracle}: no --family {name!r}; there are {', '.join(known)}.{hint}")
    rows = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("families", total=len(chosen))
        for name in chosen:
            progress.update(task, description=name)
            rows[name] = list(run_family(args.oracle, name))
            progress.advance(task)
    differing = [row for family in rows.values() for row in family if row.state == "differs"]
    if args.json:
        print(json.dumps({name: [asdict(row) for row in family] for name, family in rows.items()}))
        return 1 if differing else 0
    console.print(oracle_table(rows))
    for row in differing[:20]:
        console.print(
            f"[red]differs[/] {row.family}/{row.file}/{escape(row.case)} {escape(row.reference)}: {escape(row.detail)}"
        )
    if len(differing) > 20:
        console.print(f"... and {len(differing) - 20} more; --json lists all")
    return 1 if differing else 0
