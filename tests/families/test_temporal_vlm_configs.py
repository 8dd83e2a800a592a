"""The configs that come with the package: the paper's, and each ablation as a model that trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from timeexpert.config import load, to_tree
from timeexpert.data.collate import Reading, build_row
from timeexpert.data.records import Sample
from timeexpert.families import family
from timeexpert.families.temporal_vlm.settings import ModelConfig
from timeexpert.stages.config import RunConfig
from timeexpert.stages.models import build_model
from timeexpert.stages.optim import freeze, rate
from timeexpert.tokenization import Event, EventSequence
from timeexpert.tokenization.text import SentencePieceText

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TINY = CONFIGS / "temporal_vlm_tiny.yaml"
LISTS = {
    path.stem.removeprefix("temporal_vlm_"): yaml.safe_load(path.read_text())
    for path in sorted((CONFIGS / "ablations").glob("temporal_vlm_*.yaml"))
}
ROWS = [pytest.param(row["set"], id=f"{name}-{row['name']}") for name, tree in LISTS.items() for row in tree["rows"]]


def differences(a: Any, b: Any, where: str = "") -> set[str]:
    """Key paths at which two trees differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return {
            d for key in a.keys() | b.keys() for d in differences(a.get(key), b.get(key), f"{where}.{key}".strip("."))
        }
    return set() if a == b else {where}


def test_the_papers_config_has_the_hyperparameters_of_table_7() -> None:
    config = load(RunConfig, CONFIGS / "temporal_vlm.yaml")
    model, (stage,) = config.model, config.stages
    assert isinstance(model, ModelConfig)
    assert (model.clips, model.frames_per_clip, model.window, model.overlap) == (6, 96, 32, 16)
    assert (model.video_queries, model.video_layers, model.fusion_heads) == (32, 2, 8)
    assert (model.qformer.num_hidden_layers, model.qformer.hidden_size, model.llm.hidden_size) == (12, 768, 4096)
    assert (model.vision.image_size, model.vision.patch_size, model.sequence, model.llm_tokens) == (224, 14, 576, 96)
    assert (stage.lr, stage.weight_decay, stage.beta2, stage.sampling) == (5e-5, 0.01, 0.999, "uniform")
    assert stage.batch_videos == 1 and stage.accumulate == 32 and stage.num_frames == (6 * 96,)
    assert stage.steps == -(-7 * 142_000 // 32)
    assert stage.warmup_from * stage.lr == 5e-6 and rate(stage, 0) == pytest.approx(0.1, abs=1e-3)
    short = load(RunConfig, CONFIGS / "temporal_vlm_3_epochs.yaml").stages[0].steps
    assert short == -(-3 * 142_000 // 32)


@pytest.mark.parametrize("name", ["timechat", "longvlm", "llama3", "3_epochs"])
def test_what_extends_the_papers_config_loads(name: str) -> None:
    assert load(RunConfig, CONFIGS / f"temporal_vlm_{name}.yaml").model.family == "temporal_vlm"


@pytest.mark.parametrize("changes", ROWS)
def test_a_row_changes_what_it_says_and_trains(changes: list[str], words: SentencePieceText) -> None:
    base, config = load(RunConfig, TINY), load(RunConfig, TINY, changes)
    named = {change.partition("=")[0] for change in changes if change.startswith("model.")}
    assert {f"model.{path}" for path in differences(to_tree(base.model), to_tree(config.model))} <= named
    torch.manual_seed(0)
    model = build_model(config, words)
    writer = family("temporal_vlm").writer(model.config, words)
    frames = config.eval.num_frames
    sample = Sample(
        id="q", video="v.mp4", task="dense_captioning", prompt="When?", events=EventSequence((Event(0, 1, text="a"),))
    )
    pixels = np.random.default_rng(0).integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)
    row, _ = build_row(writer, [sample], pixels, writer.shown_s(np.arange(frames)), Reading((frames,)))
    trained = freeze(model, config.stages[0])
    batch = writer.batch([row])
    model.training_step(batch, model.label_counts(batch)).loss.backward()
    without = {n for n, p in model.named_parameters() if n in trained and p.grad is None}
    # the sentence's tokens end in the last layer, where the queries go on alone; positions of frames there are none of
    assert all("qformer.encoder.layer.1." in name for name in without), without


def test_there_is_a_row_for_every_row_of_the_papers_tables() -> None:
    assert {name: len(tree["rows"]) for name, tree in LISTS.items()} == {
        "table4": 4,
        "table5": 6,
        "table13": 3,
        "baselines": 3,
        "table8": 2,
        "llm": 2,
    }
    for tree in LISTS.values():
        assert tree["base"] == "temporal_vlm_tiny"
        configs = [str(to_tree(load(RunConfig, TINY, row["set"]))) for row in tree["rows"]]
        assert len(set(configs)) == len(configs)
        models = [str(to_tree(load(RunConfig, TINY, row["set"]).model)) for row in tree["rows"]]
        assert str(to_tree(load(RunConfig, TINY).model)) in models
