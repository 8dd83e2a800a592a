"""Train several configs on one data set with several seeds, and compare them in one table.

``python scripts/ablate.py tiny ablations/topk2 --seeds 0 1 2 -o runs/topk2 [--small] [key.path=value ...]``
``python scripts/ablate.py ablations/temporal_vlm_table4 --seeds 0 1 2 -o runs/table4``

A name is a config, or a list of rows (``configs/ablations/temporal_vlm_table4.yaml``): changes to one ``base`` config.
Data are made once, from the first config's ``synth``, or are those of its ``data.root``; configs that name other data
are refused.
Every run is a run folder of its own (OUT/CONFIG-SEED), and the same command continues where a stopped one was.
OUT/ablation.json and OUT/ablation.md hold the figures after the last stage: each config's mean over the seeds, and its
difference from the first config. ``± h`` is the 95 % interval over the seeds (Student's t, differences paired by seed),
``[a, b]`` that over the questions (bootstrap, the same questions drawn for every run). ``--small`` is the size of the
learning test: a few minutes a run of tiny.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learning_test import SMALLER

from timeexpert.config import ConfigError, load, read_tree
from timeexpert.data.records import Sample
from timeexpert.errors import UserError
from timeexpert.evaluation.records import answer_of_row
from timeexpert.evaluation.runner import by_segments, scored_task
from timeexpert.evaluation.scores import Scores, mean_intervals
from timeexpert.evaluation.tasks import TASKS
from timeexpert.paths import config_path
from timeexpert.tokenization import EventSequence

if TYPE_CHECKING:
    from timeexpert.stages.config import RunConfig

# torch is imported where training begins: the processes that make videos import this file too.

FIGURES = {  # of a summary: its task, its name among that task's figures, its title
    "r1_0.5": ("moment_retrieval", "r1_0.5", "R@1 IoU 0.5"),
    "miou": ("moment_retrieval", "miou", "mIoU"),
    "multi_f1": ("multi_segment", "f1", "multi-segment F1"),
    "single_r1_0.5": ("single_segment", "r1_0.5", "single-segment R@1 IoU 0.5"),
    "f1": ("dense_captioning", "f1", "dense F1"),
    "hit1": ("highlight_detection", "hit1", "HIT@1"),
    "accuracy": ("action_segmentation", "accuracy", "frame accuracy"),
    "edit": ("action_segmentation", "edit", "Edit"),
    "f1_0.1": ("action_segmentation", "f1_0.1", "F1@10"),
    "f1_0.25": ("action_segmentation", "f1_0.25", "F1@25"),
    "f1_0.5": ("action_segmentation", "f1_0.5", "F1@50"),
    "where_jf": ("loombench_where", "jf", "where J&F"),
    "combined_jf": ("loombench_combined", "jf_bi_fore", "combined J&F"),
}
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
CONTROL = "noise_frames"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a list: the changes to its base, as ``key.path=value``. ``published``: what the paper's table says."""

    name: str
    set: tuple[str, ...] = ()
    published: str = ""


@dataclass(frozen=True, kw_only=True)
class RowList:
    """Rows of a table; others are compared with the first. ``published``: what the paper's figures are."""

    name: str
    base: str
    rows: tuple[Row, ...]
    published: str = ""

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if not names:
            raise ConfigError("rows is empty; list at least one.")
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"rows: the name {name!r} occurs twice; runs are named after rows.")


def main(words: Sequence[str] | None = None) -> int:
    """Train what is not trained yet, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="first the one that others are compared with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of train.seed; default 0 1 2")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="the size of scripts/learning_test.py")
    parser.add_argument("--device", default="auto")
    args = parser.parse_intermixed_args(words)
    names = [word for word in args.configs if "=" not in word]
    overrides = [*(SMALLER if args.small else []), *(word for word in args.configs if "=" in word)]
    if not 1 <= len(args.seeds) <= len(T_QUANTILES) + 1 or len(set(args.seeds)) < len(args.seeds):
        parser.error(f"--seeds ({args.seeds}) must be 1 to {len(T_QUANTILES) + 1} different numbers")
    try:
        rows = [row for name in names for row in rows_of(name)]
        return ablate(rows, overrides, args.seeds, args.out, args.device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def rows_of(name: str) -> list[tuple[str, str, Row]]:
    """(name, config, changes) of each row of a list; of a config one row without changes."""
    path = config_path(name)
    if "rows" not in read_tree(path)[0]:
        return [(name, name, Row(name=name))]
    listed = load(RowList, path)
    published = f"{listed.published} " if listed.published else ""
    return [(r.name, listed.base, replace(r, published=published + r.published)) for r in listed.rows]


def ablate(
    rows: Sequence[tuple[str, str, Row]], overrides: Sequence[str], seeds: Sequence[int], out: Path, device: str
) -> int:
    """All runs one after another; the exit code of the first that was stopped, or 0."""
    from rich.console import Console

    from timeexpert.quickstart import make_data
    from timeexpert.stages.run_folder import RunFolder
    from timeexpert.stages.train import Trainer, run_and_report

    configs = configs_of(rows, overrides)
    first = next(iter(configs.values()))
    console, folder = Console(), RunFolder(out)
    with folder.locked():
        make_data(first, folder, console)
        runs: dict[str, list[RunFolder]] = {name: [] for name in configs}
        for seed in seeds:
            for name, config in configs.items():
                run = RunFolder(out / f"{folder_name(name)}-{seed}")
                console.rule(f"{name}, seed {seed}")
                root = str(folder.path / "data") if first.synth else config.data.root
                data = replace(config.data, root=root)
                seeded = replace(config, data=data, train=replace(config.train, seed=seed))
                with run.locked():
                    code = run_and_report(Trainer(seeded, run, device, console))
                if code:
                    return code
                runs[name].append(run)
        published = {name: row.published for name, _, row in rows if row.published}
        comparison = compare({name: [r.path for r in found] for name, found in runs.items()}, seeds, published)
        (out / "ablation.json").write_text(json.dumps(comparison, indent=1) + "\n", encoding="utf-8")
        (out / "ablation.md").write_text(markdown(comparison), encoding="utf-8")
    print(markdown(comparison))
    return 0


def configs_of(rows: Sequence[tuple[str, str, Row]], overrides: Sequence[str]) -> dict[str, RunConfig]:
    """Each row's config, by its name; ConfigError where one cannot be, or asks other questions than the first."""
    from timeexpert.stages.config import RunConfig

    configs: dict[str, RunConfig] = {}
    for name, config, row in rows:
        try:
            configs[name] = load(RunConfig, config_path(config), [*overrides, *row.set])
        except UserError as error:
            raise ConfigError(f"row {name!r}: {error}" if row.set else str(error)) from None
    first = configs[rows[0][0]]
    for name, config in configs.items():
        # a row may read more or fewer frames of the same videos
        asked = replace(config.eval, num_frames=first.eval.num_frames)
        if (config.synth, config.data, asked) != (first.synth, first.data, first.eval):
            raise ConfigError(
                f"{name}: synth, data and eval (but for eval.num_frames) must be those of {rows[0][0]}, or the figures "
                "do not compare."
            )
    return configs


def folder_name(name: str) -> str:
    """The name of a row as a part of a folder's name."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def compare(runs: dict[str, list[Path]], seeds: Sequence[int], published: dict[str, str]) -> dict[str, Any]:
    """Per config and figure: values by seed, their mean and half-width, the same of the differences paired by seed,
    intervals of both over the questions, and the mean of the control that looks at noise."""
    told = {name: [_summary(run) for run in paths] for name, paths in runs.items()}
    over_questions = _over_questions(runs, {name: rows[0][0]["name"] for name, rows in told.items()})
    first = next(iter(told.values()))
    out: dict[str, Any] = {}
    for name, rows in told.items():
        out[name] = {"seeds": list(seeds)} | ({"published": published[name]} if name in published else {})
        for figure in FIGURES:
            if any(row[0].get(figure) is None for row in (*rows, *first)):
                continue
            values = [stage[figure] for stage, _ in rows]
            differences = [a - b[figure] for a, (b, _) in zip(values, first, strict=True)]
            cell = {"values": values, **_interval(values), "difference": _interval(differences)}
            drawn = over_questions[name].get(figure, {})
            cell["questions"], cell["difference"]["questions"] = drawn.get("interval"), drawn.get("difference_interval")
            noise = [control[figure] for _, control in rows if control.get(figure) is not None]
            cell[CONTROL] = round(statistics.fmean(noise), 2) if len(noise) == len(rows) else None
            out[name][figure] = cell
    return out


def markdown(comparison: dict[str, Any]) -> str:
    """One table: a config a row; a figure's mean, its intervals and its difference from the first config."""
    figures = [name for name in FIGURES if any(name in row for row in comparison.values())]
    published = any("published" in row for row in comparison.values())
    heads = ["config", "seeds", *(part for f in figures for part in (FIGURES[f][2], "difference"))]
    table = []
    for index, (name, row) in enumerate(comparison.items()):
        cells = [name, " ".join(map(str, row["seeds"]))]
        for figure in figures:
            cells.append(_text(row.get(figure)))
            cells.append(_text(row.get(figure, {}).get("difference"), sign=True) if index else "")
        table.append([*cells, *([row.get("published", "")] if published else [])])
    lines = _lines([*heads, *(["published"] if published else [])], table)
    noise = [[name, *(_number(row.get(f, {}).get(CONTROL)) for f in figures)] for name, row in comparison.items()]
    if any(cell != "-" for row in noise for cell in row[1:]):
        lines += ["", "The same models looking at noise:", ""]
        lines += _lines(["config", *(FIGURES[f][2] for f in figures)], noise)
    lines += ["", "± over seeds (Student's t, 95 %); in brackets over questions (bootstrap, 95 %)."]
    return "\n".join(lines) + "\n"


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(row) + " |" if row is not cells[1] else "|" + "---|" * len(heads) for row in cells]


def _summary(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures after the last evaluated stage of a run, and those of its control that looks at noise."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    if not summary["stages"]:
        raise ConfigError(f"{run}: nothing was evaluated. Set data.eval, and evaluate on the last stage.")
    return summary["stages"][-1], summary["controls"].get(CONTROL, {})


def _over_questions(runs: dict[str, list[Path]], stages: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Intervals over questions per config, by figure. ``stages``: each config's last evaluated stage."""
    out: dict[str, dict[str, Any]] = {name: {} for name in runs}
    for task in dict.fromkeys(task for task, _, _ in FIGURES.values()):
        groups = [[_scores(run, stages[name], task) for run in paths] for name, paths in runs.items()]
        if any(not len(scores.items) for group in groups for scores in group):
            continue
        for name, row in zip(runs, mean_intervals(groups), strict=True):
            out[name] |= {key: row[own] for key, (of, own, _) in FIGURES.items() if of == task and own in row}
    return out


def _scores(run: Path, stage: str, task: str) -> Scores:
    """The kept answers of a run after ``stage``, scored as ``task``."""
    samples, answers = [], []
    for line in (run / "predictions" / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        given = {name: row[name] for name in ("id", "video", "task", "prompt", "duration_s", "meta")}
        samples.append(Sample(**given, events=EventSequence.from_json(row["truth"])))
        answers.append(answer_of_row(row))
    if task in ("multi_segment", "single_segment"):
        return by_segments(samples, answers)[task].scores
    if TASKS[task].needs_masks and any(map(TASKS[task].takes, samples)):
        samples = _with_masks(samples, run)
    return scored_task(task, samples, answers).scores


def _with_masks(samples: Sequence[Sample], run: Path) -> list[Sample]:
    """``samples`` as the held-out shards of ``run`` have them: the lines of predictions do not hold the true masks."""
    from timeexpert.data.shards import ShardDataset
    from timeexpert.stages.answers import run_eval_data

    dataset = ShardDataset(run_eval_data(run))
    held_out = {sample.id: sample for sample in map(dataset.sample, range(len(dataset)))}
    lacking = [sample.id for sample in samples if sample.id not in held_out]
    if lacking:
        raise ConfigError(
            f"{dataset.path}: has no question {lacking[0]!r}, which {run} was asked. Give another -o, or the data of "
            "that run."
        )
    return [held_out[sample.id] for sample in samples]


def _interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and the half-width of its 95 % interval; none for one value."""
    mean, half = statistics.fmean(values), None
    if len(values) > 1:
        half = round(T_QUANTILES[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5, 2)
    return {"mean": round(mean, 2), "half_width": half}


def _text(cell: dict[str, Any] | None, sign: bool = False) -> str:
    if not cell:
        return "-"
    form = "+.1f" if sign else ".1f"
    half = "" if cell["half_width"] is None else f" ± {cell['half_width']:.1f}"
    drawn = cell.get("questions")
    return f"{cell['mean']:{form}}{half}" + (f" [{drawn[0]:{form}}, {drawn[1]:{form}}]" if drawn else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
