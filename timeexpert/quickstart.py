"""The main job on a laptop: videos in, three training stages, a checkpoint that says when, and a picture of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from timeexpert.config import ConfigError, load
from timeexpert.data.build import build
from timeexpert.data.progress import shown
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
    videos = sorted((folder.path / "data").glob(f"{config.data.eval or '*'}.raw/media/*.mp4"))
    video = videos[0] if videos else "VIDEO.mp4"  # the raw videos may be gone: shards hold them too
    console.print("next:", style="bold")
    lines = [f'timeexpert predict {folder.path} {video} "What happens, and when?"', f"timeexpert serve {folder.path}"]
    if config.model.has_experts:
        lines.insert(1, f"timeexpert experts report {folder.path}")
    for line in lines:
        console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
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
