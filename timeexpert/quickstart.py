"""The main job on a laptop: videos in, three training stages, a checkpoint that says when, and a picture of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import join

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from timeexpert.config import ConfigError, load
from timeexpert.data.build import build
from timeexpert.data.progress import shown
from timeexpert.data.records import Sample, read_samples
from timeexpert.data.synthetic import check_synthesised, synthesise
from timeexpert.paths import config_path
from timeexpert.stages.config import RunConfig
from timeexpert.stages.run_folder import RunFolder
from timeexpert.stages.train import Trainer, run_and_report


def quickstart(config_name: str, overrides: Sequence[str], out: Path | None, device: str, console: Console) -> int:
    """Synthesise, build, train, evaluate, report. Returns the exit code; 143 after an orderly stop."""
    config = load(RunConfig, config_path(config_name), overrides)
    folder = RunFolder(out or Path("runs") / config.name)
    held_out = [config.data.eval] if config.data.eval is not None else []
    missing = [path for path in [*config.data.train.values(), *held_out] if path not in config.synth]
    if missing:
        raise ConfigError(
            f"{config_name}: synth lacks {missing[0]!r}; quickstart makes every data set of data.train and data.eval. "
            "Use timeexpert train for data of your own."
        )
    config = replace(config, data=replace(config.data, root=str(folder.path / "data")))
    with folder.locked():
        trainer = Trainer(config, folder, device, console)
        folder.settle(config)
        make_data(config, folder, console)
        code = run_and_report(trainer)
    if code:
        return code
    console.print("next:", style="bold")
    lines = [*_questions(config, folder), ["serve", str(folder.path)]]
    if config.model.has_experts:
        lines.insert(-1, ["experts", "report", str(folder.path)])
    for words in lines:
        console.print(f"  {escape(join(['timeexpert', *words]))}", highlight=False, soft_wrap=True)
    return 0


def make_data(config: RunConfig, folder: RunFolder, console: Console) -> None:
    """Synthesise and build every data set of ``config.synth`` into RUN/data, where it is not there yet."""
    workers = max(1, min(4, os.cpu_count() or 1))
    for name, settings in config.synth.items():
        raw, shards = folder.path / "data" / f"{name}.raw", folder.path / "data" / name
        check_synthesised(settings, raw)
        if (shards / "dataset.json").is_file():
            continue
        with folder.timed(f"data {name}"):
            if not (raw / "samples.jsonl").is_file():
                steps = synthesise(settings, raw, workers=workers)
                for _ in track(steps, total=settings.videos, description=f"videos: {name}", console=console):
                    pass
            with shown(f"shards: {name}") as progress:
                build(raw / "samples.jsonl", raw / "media", shards, shard_mb=32, workers=workers, progress=progress)


def _questions(config: RunConfig, folder: RunFolder) -> list[list[str]]:
    """Commands that ask about the first held-out video: its first question of each task, as the model was trained."""
    names = [config.data.eval] if config.data.eval is not None else [k for k, v in config.synth.items() if not v.images]
    raw = folder.path / "data" / f"{names[0]}.raw" if names else None
    if raw is None or not (raw / "samples.jsonl").is_file():  # the raw videos may be gone: shards hold them too
        return [["predict", str(folder.path), "VIDEO.mp4", "QUESTION"]]
    samples = [sample for _, sample in read_samples(raw / "samples.jsonl") if isinstance(sample, Sample)]
    asked: dict[str, Sample] = {}
    for sample in samples:
        if sample.video == samples[0].video and sample.task != "general":
            asked.setdefault(sample.task, sample)
    media = raw / "media"
    return [
        ["predict", str(folder.path), str(media / sample.video), sample.prompt, "--task", task]
        for task, sample in asked.items()
    ]
