"""Train several configs on one generated data set with several seeds, and compare them in one table.

``python scripts/ablate.py tiny ablations/topk2 --seeds 0 1 2 -o runs/topk2 [--small] [key.path=value ...]``

Data are made once, from the first config's ``synth``; configs that name other data are refused. Every run is a run
folder of its own (OUT/CONFIG-SEED), and the same command continues where a stopped one was. OUT/ablation.json and
OUT/ablation.md hold the figures after the last stage: each config's mean over the seeds, and its difference from the
first config, paired by seed, with 95 % intervals of Student's t. ``--small`` is the size of the learning test: a few
minutes a run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from learning_test import SMALLER

from timeexpert.errors import UserError

# torch is imported where training begins: the processes that make videos import this file too.

FIGURES = {"r1_0.5": "R@1 IoU 0.5", "miou": "mIoU", "f1": "dense F1", "hit1": "HIT@1"}
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


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
        return ablate(names, overrides, args.seeds, args.out, args.device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def ablate(names: Sequence[str], overrides: Sequence[str], seeds: Sequence[int], out: Path, device: str) -> int:
    """All runs one after another; the exit code of the first that was stopped, or 0."""
    from rich.console import Console

    from timeexpert.config import ConfigError, load
    from timeexpert.paths import config_path
    from timeexpert.quickstart import make_data
    from timeexpert.stages.config import RunConfig
    from timeexpert.stages.run_folder import RunFolder
    from timeexpert.stages.train import Trainer, run_and_report

    configs = {name: load(RunConfig, config_path(name), overrides) for name in names}
    first = configs[names[0]]
    for name, config in configs.items():
        if (config.synth, config.data, config.eval) != (first.synth, first.data, first.eval):
            raise ConfigError(
                f"{name}: synth, data and eval must be those of {names[0]}, or the figures do not compare."
            )
    console, folder = Console(), RunFolder(out)
    with folder.locked():
        make_data(first, folder, console)
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for seed in seeds:
            for name, config in configs.items():
                run = RunFolder(out / f"{name.replace('/', '-')}-{seed}")
                console.rule(f"{name}, seed {seed}")
                data = replace(config.data, root=str(folder.path / "data"))
                seeded = replace(config, data=data, train=replace(config.train, seed=seed))
                with run.locked():
                    code = run_and_report(Trainer(seeded, run, device, console))
                if code:
                    return code
                summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
                results[name].append({"seed": seed, **summary["stages"][-1]})
        comparison = compare(results)
        (out / "ablation.json").write_text(json.dumps(comparison, indent=1) + "\n", encoding="utf-8")
        (out / "ablation.md").write_text(markdown(comparison), encoding="utf-8")
    print(markdown(comparison))
    return 0


def compare(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Per config and figure: the values by seed, mean and half-width, and the same of the paired differences."""
    first = next(iter(results.values()))
    out: dict[str, Any] = {}
    for name, rows in results.items():
        out[name] = {"seeds": [row["seed"] for row in rows]}
        for figure in FIGURES:
            if any(figure not in row for row in (*rows, *first)):
                continue
            values = [row[figure] for row in rows]
            differences = [a - b[figure] for a, b in zip(values, first, strict=True)]
            out[name][figure] = {"values": values, **_interval(values), "difference": _interval(differences)}
    return out


def markdown(comparison: dict[str, Any]) -> str:
    """One table: a config a row; a figure's mean and interval, and its difference from the first config."""
    figures = [name for name in FIGURES if any(name in row for row in comparison.values())]
    lines = ["| config | seeds | " + " | ".join(f"{FIGURES[f]} | difference" for f in figures) + " |"]
    lines.append("|---|---|" + "---|---|" * len(figures))
    for index, (name, row) in enumerate(comparison.items()):
        cells = [name, " ".join(map(str, row["seeds"]))]
        for figure in figures:
            cells.append(_text(row.get(figure)))
            cells.append(_text(row.get(figure, {}).get("difference"), sign=True) if index else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and the half-width of its 95 % interval; none for one value."""
    mean, half = statistics.fmean(values), None
    if len(values) > 1:
        half = round(T_QUANTILES[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5, 2)
    return {"mean": round(mean, 2), "half_width": half}


def _text(cell: dict[str, Any] | None, sign: bool = False) -> str:
    if not cell:
        return "-"
    half = "" if cell["half_width"] is None else f" ± {cell['half_width']:.1f}"
    return f"{cell['mean']:+.1f}{half}" if sign else f"{cell['mean']:.1f}{half}"


if __name__ == "__main__":
    sys.exit(main())
