"""A data set of seconds-long videos and a model of some 40,000 weights: a whole run in about a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from timeexpert.config import from_tree
from timeexpert.data.scenes import SynthConfig
from timeexpert.data.synthetic import synthesise

ROOT = Path(__file__).resolve().parent.parent
VIDEOS = SynthConfig(
    videos=3,
    seed=1,
    min_duration_s=4.0,
    max_duration_s=6.0,
    min_event_s=1.0,
    max_event_s=3.0,
    frame_rates=(4,),
    sizes=((64, 64),),
)
KINDS = {
    "images": replace(VIDEOS, images=True, seed=2),
    "videos": VIDEOS,
    "held_out": replace(VIDEOS, videos=2, seed=2),
}
STAGE: dict[str, Any] = {"mix": {"videos": 1}, "batch_videos": 2, "batch_tokens": None, "lr": 1e-2, "warmup_ratio": 0.0}
TIMED = ["moment_retrieval", "dense_captioning", "highlight_detection"]


def config_tree(data: Path, /, **changes: Any) -> dict[str, Any]:
    """A run of three stages on ``data`` as it stands in YAML; ``changes`` replace whole top-level keys."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "data": {"root": str(data), "train": {"images": "images", "videos": "videos"}, "eval": "held_out"},
        "model": {
            "vision": {
                "model_type": "siglip_vision_model",
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": 8,
                "extra": {"vision_use_head": False},
            },
            "decoder": {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "max_position_embeddings": 1024,
            },
            "moe": {"num_experts": 3, "expert_dim": 16, "num_shared_experts": 1, "top_k": 2},
            "compressor": "vision",
            "tokens_per_frame": 2,
            "initializer_range": 0.05,
        },
        "text": {"vocab_size": 320},
        "stages": [
            {
                **STAGE,
                "name": "backbone",
                "kind": "backbone",
                "steps": 4,
                "mix": {"images": 1},
                "tasks": ["general"],
                "num_frames": [1],
                "calibrate_gates": True,
                "evaluate": False,
            },
            {
                **STAGE,
                "name": "sft",
                "kind": "sft",
                "steps": 8,
                "tasks": TIMED,
                "num_frames": [2, 4],
                "snap": "inside",
                "optimizer": "muon",
            },
        ],
        "train": {"checkpoint_every": 3, "log_every": 1, "experts_every": 4, "threads": 1},
        "eval": {"num_frames": 4, "batch_size": 8, "max_new_tokens": 40, "max_events": 2},
    }
    return {**tree, **changes}


def run_config(data: Path, /, **changes: Any) -> Any:
    """:func:`config_tree` as a RunConfig."""
    from timeexpert.stages.config import RunConfig

    return from_tree(RunConfig, config_tree(data, **changes))


@contextmanager
def trainer_of(config: Any, out: Path) -> Iterator[Any]:
    """A Trainer of this process, which holds its run folder."""
    import torch
    from rich.console import Console

    from timeexpert.stages.run_folder import RunFolder
    from timeexpert.stages.train import Trainer

    folder = RunFolder(out)
    threads = torch.get_num_threads()
    try:
        with folder.locked():
            yield Trainer(config, folder, "cpu", Console(quiet=True))
    finally:
        torch.set_num_threads(threads)


def train(config: Any, out: Path, only: Sequence[str] = ()) -> dict[str, Any]:
    """Run a config in this process; returns the summary."""
    with trainer_of(config, out) as trainer:
        summary: dict[str, Any] = trainer.execute(only)
    return summary


def write_config(data: Path, path: Path, /, **changes: Any) -> Path:
    """:func:`config_tree` as a YAML file."""
    path.write_text(yaml.safe_dump(config_tree(data, **changes), sort_keys=False), encoding="utf-8")
    return path


def command(*words: object, code: str | None = None, **kwargs: Any) -> subprocess.Popen[str]:
    """A ``timeexpert`` command in a process of its own, far from a terminal; ``code`` runs before it."""
    start = f"{code or ''}\nimport sys; from timeexpert.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "300"}
    return subprocess.Popen(
        [sys.executable, "-c", start, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        **kwargs,
    )


def rows(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, of one kind or all."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in found if kind is None or row["kind"] == kind]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shard folders images, videos and held_out, and what they were built from (NAME.raw)."""
    from timeexpert.data.build import build

    root = tmp_path_factory.mktemp("data")
    for name, settings in KINDS.items():
        raw = root / f"{name}.raw"
        for _ in synthesise(settings, raw):
            pass
        build(raw / "samples.jsonl", raw / "media", root / name)
    return root


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: two stages, evaluated, with controls. Read only; copy what you want to break."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(run_config(tiny_data), out)
    return out
