"""The recipe's scripts at the tiny size: one stage by its own script, the others by the whole recipe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scripts.launching import finish, launch
from tests.tiny import STAGE, rows, write_config
from timeexpert.config import load
from timeexpert.paths import packaged_config
from timeexpert.stages.config import RunConfig

KINDS = ("task_modules", "moe_pretraining", "sft")


@pytest.fixture
def recipe(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> dict[str, str]:
    """Settings for a recipe of two steps per stage, which starts from a trained model."""
    stages = [
        {**STAGE, "name": kind, "kind": kind, "steps": 2, "num_frames": [2], "snap": "inside", "accumulate": 2}
        | {"mix": {f"stage{i}": 1}, "tasks": ["moment_retrieval"]}
        for i, kind in enumerate(KINDS, 1)
    ]
    data = {"root": ".", "train": {f"stage{i}": f"stage{i}" for i in (1, 2, 3)}, "eval": None}
    config = write_config(tiny_data, tmp_path / "small.yaml", stages=stages, data=data)
    shards = tmp_path / "shards"
    shards.mkdir()
    for i in (1, 2, 3):
        os.symlink(tiny_data / "videos", shards / f"stage{i}")
    os.symlink(tiny_data / "held_out", shards / "held_out")
    return {
        "CONFIG": str(config),
        "RUN": str(tmp_path / "run"),
        "DATA": str(shards),
        "EVAL": "held_out",
        "WEIGHTS": str(tiny_run / "models" / "backbone"),
        "RANKS_PER_NODE": "2",
        "MIN_FREE_GB": "0",
    }


@pytest.mark.slow
def test_a_stages_script_trains_it_and_the_recipe_goes_on(recipe: dict[str, str]) -> None:
    run = Path(recipe["RUN"])
    code, said = finish(launch("task_modules.sh", "--device", "cpu", env=recipe))
    assert code == 0, said
    assert [path.name for path in (run / "models").iterdir()] == ["task_modules"]
    code, said = finish(launch("reproduce.sh", "--device", "cpu", env=recipe))
    assert code == 0, said
    told = [(row["stage"], row["step"]) for row in rows(run / "metrics.jsonl", "train")]
    assert told == [(kind, step) for kind in KINDS for step in (1, 2)]
    assert [row["stage"] for row in rows(run / "metrics.jsonl", "eval") if row["control"] is None] == list(KINDS)


def test_what_the_recipe_lacks_is_told_by_name(recipe: dict[str, str], tmp_path: Path) -> None:
    def refused(script: str, words: str, **changes: str) -> None:
        code, said = finish(launch(script, env={**recipe, **changes}))
        assert code == 2 and words in said, said

    refused("reproduce.sh", "error: DATA is not set. It is the folder of stage1, stage2 and stage3", DATA="")
    Path(recipe["DATA"], "stage2").unlink()
    refused("reproduce.sh", f"error: DATA ({recipe['DATA']}): there is no folder {recipe['DATA']}/stage2.")
    refused("moe_pretraining.sh", f"there is no folder {recipe['DATA']}/stage2.")
    refused("sft.sh", "error: WEIGHTS (/nowhere): there is no folder /nowhere.", WEIGHTS="/nowhere")
    refused("sft.sh", "error: LAUNCHER (magic) must be node, slurm or deepspeed.", LAUNCHER="magic")
    refused("sft.sh", "error: LAUNCHER is slurm, but there is no sbatch on this machine.", LAUNCHER="slurm")
    os.symlink("stage1", Path(recipe["DATA"], "stage2"))
    refused("reproduce.sh", "error: ARIA is not set. It is the folder of ARIA's published weights", WEIGHTS="/nowhere")


def test_the_configs_hold_the_papers_hyperparameters() -> None:
    """Table 1 of the supplement; two nodes of eight GPUs with batches of 8, accumulated twice, make 256 videos."""
    table1 = load(RunConfig, packaged_config("aria_table1"))
    assert [stage.name for stage in table1.stages] == list(KINDS)
    for stage in table1.stages:
        assert stage.batch_videos == 8 and stage.accumulate == 2 * 8 * 2
        assert (stage.lr, stage.weight_decay, stage.beta2, stage.warmup_ratio) == (5e-6, 0.1, 0.95, 0.01)
        assert stage.max_tokens == 2048 and stage.optimizer == "adamw" and "vision_tower" not in stage.parts
    assert [stage.steps for stage in table1.stages] == [round(n / 256) for n in (1_900_000, 900_000, 2_300_000)]
    assert table1.model.vision.image_size == 980 and table1.data.num_workers == 8
    moe = table1.model.moe
    assert (moe.num_experts, moe.expert_dim, moe.num_shared_experts) == (64, 1664, 2)
    assert (moe.z_loss, moe.task_loss, moe.norm_loss) == (1e-5, 1e-3, 1e-3)
    aria = load(RunConfig, packaged_config("aria"))
    first = aria.stages[0]
    assert (first.lr, first.batch_videos * first.accumulate, first.steps) == (1e-3, 128, round(1_900_000 / 128))
    for stage in (*table1.stages, *aria.stages):  # one copy over all GPUs, the experts of a layer within a node
        stage.check_ranks(16)
    degrees = aria.parallel.degrees(16, aria.model.moe.slots, 8)
    assert (degrees.shard, degrees.expert) == (16, 8)
