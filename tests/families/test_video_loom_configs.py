"""The configs that come with the package: the paper's, and the rows of table 5 as models that train."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from timeexpert.config import load
from timeexpert.data.collate import Reading, build_row
from timeexpert.families import family
from timeexpert.families.video_loom.settings import ModelConfig
from timeexpert.stages.config import RunConfig
from timeexpert.stages.models import build_model
from timeexpert.tokenization.text import SentencePieceText

from .loom import noise, sample, times_s

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from ablate import rows_of  # noqa: E402

ROWS = rows_of("ablations/video_loom_table5")


def test_the_papers_config_has_the_papers_hyperparameters() -> None:
    config = load(RunConfig, ROOT / "configs" / "video_loom.yaml")
    model, (stage,) = config.model, config.stages
    assert isinstance(model, ModelConfig)
    assert (model.keyframes, model.max_frames, model.slow_tokens, model.fast_tokens) == (5, 128, 256, 16)
    assert (model.vision.image_size, model.sam.image_size, model.frame_size) == (448, 1024, 1024)
    assert (stage.lr, stage.weight_decay, stage.beta2, stage.max_tokens) == (4e-5, 0.05, 0.999, 8192)
    assert stage.batch_videos == 1 and stage.accumulate == 64 and stage.steps == -(-1_315_400 // 64)
    assert stage.parts == ("lora", "embeddings", "mask_projection", "mask_decoder")
    assert (model.mask_loss.points, model.lora.rank, model.lora.alpha) == (12544, 256, 512.0)


@pytest.mark.parametrize("place", range(len(ROWS)), ids=[name for name, _, _ in ROWS])
def test_a_row_of_table_5_trains(place: int, words: SentencePieceText) -> None:
    name, base, row = ROWS[place]
    config = load(RunConfig, ROOT / "configs" / f"{base}.yaml", row.set)
    assert isinstance(config.model, ModelConfig)
    visual = {"slow": "slow", "fast": "fast", "slow/fast": "per_task", "SlowFast": "slowfast"}
    assert config.model.visual == visual[name.partition("(")[2].rstrip(")")]
    pictures, *stages = [{t for data in s.mix for t in config.synth[data].tasks if t in s.tasks} for s in config.stages]
    trained = sorted(stages[-1])
    assert pictures == {"general"} and all(tasks - pictures == set(trained) for tasks in stages)
    assert (len(trained) == 2) == name.startswith("joint")
    torch.manual_seed(0)
    model = build_model(config, words)
    writer = family("video_loom").writer(model.config, words)
    asked = [sample(task, 4, int(task == "referring_segmentation"), task) for task in trained]
    made, dropped = build_row(writer, asked, noise(4), times_s(4), Reading((4,)))
    assert not dropped
    batch = writer.batch([made])
    losses = model.training_step(batch, model.label_counts(batch)).losses
    assert ("mask_bce" in losses) == ("referring_segmentation" in trained)
    assert all(torch.isfinite(value) for value in losses.values())
