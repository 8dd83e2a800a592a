"""The main job on a laptop: videos in, three training stages, a checkpoint that says when, and a picture of it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from timeexpert.config import ConfigError, load
from timeexpert.data.build import build
from timeexpert.data.progress import shown
from timeexpert.data.synthetic import synthesise
from timeexpert.paths import config_path
from timeexpert.reports.run_report import write_report
from timeexpert.stages.config import RunConfig
from timeexpert.stages.loop import Stopped
from timeexpert.stages.run_folder import RunFolder
from timeexpert.stages.tables import summary_table
from timeexpert.stages.train import Trainer

EXIT_TERMINATED = 143


def quickstart(config_name: str, overrides: Sequence[str], out: Path | None, device: str, console: Console) -> int:
    """Synthesise, build, train, evaluate, report. Returns the exit code; 143 after an orderly stop."""
    config = load(RunConfig, config_path(config_name), overrides)
    folder = RunFolder(out or Path("runs") / config.name)
    missing = [name for name in [*config.data.train, "held_out"] if name not in config.synth]
    if missing:
        raise ConfigError(
            f"{config_name}: synth lacks {missing[0]!r}; quickstart makes every data set of data.train and held_out. "
            "Use timeexpert train for data of your own."
        )
    config = replace(config, data=replace(config.data, root=str(folder.path / "data")))
    with folder.locked():
        seconds = make_data(config, folder, console)
        trainer = Trainer(config, folder, device, console, seconds=seconds)
        try:
            summary = trainer.execute()
        except Stopped:
            where = escape(str(folder.path))
            console.print(f"stopped; the state is saved. Continue with the same command ({where}).", soft_wrap=True)
            return EXIT_TERMINATED
        console.print(summary_table(summary))
        report = write_report(folder.path, trainer.examples())
    video = next((folder.path / "data" / "held_out.raw" / "media").glob("*.mp4"))
    console.print(f"report: {escape(str(report))}", highlight=False, soft_wrap=True)
    console.print("next:", style="bold")
    for line in (
        f'timeexpert predict {folder.path} {video} "What happens, and when?"',
        f"timeexpert experts report {folder.path}",
        f"timeexpert serve {folder.path}",
    ):
        console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    return 0


def make_data(config: RunConfig, folder: RunFolder, console: Console) -> dict[str, float]:
    """Synthesise and build every data set of ``config.synth`` into RUN/data; seconds per step."""
    workers = max(1, min(4, os.cpu_count() or 1))
    seconds: dict[str, float] = {}
    for name, settings in config.synth.items():
        began = time.monotonic()
        raw, shards = folder.path / "data" / f"{name}.raw", folder.path / "data" / name
        if not (raw / "samples.jsonl").is_file():
            steps = synthesise(settings, raw, workers=workers)
            for _ in track(steps, total=settings.videos, description=f"videos: {name}", console=console):
                pass
        if not (shards / "dataset.json").is_file():
            with shown(f"shards: {name}") as progress:
                build(raw / "samples.jsonl", raw / "media", shards, shard_mb=32, workers=workers, progress=progress)
        seconds[f"data {name}"] = time.monotonic() - began
    return seconds
