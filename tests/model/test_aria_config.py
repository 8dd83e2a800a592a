"""configs/aria.yaml is the paper's model: its parts have the sizes that the published one has."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from timeexpert.config import load
from timeexpert.model import TimeExpert
from timeexpert.paths import config_path
from timeexpert.stages.config import RunConfig
from timeexpert.stages.models import model_config

VOCABULARY = 100352  # ARIA's


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load(RunConfig, config_path("aria"))


@pytest.fixture(scope="module")
def model(config: RunConfig) -> TimeExpert:
    """The whole model without memory for its 25 billion numbers."""
    text = SimpleNamespace(vocab_size=VOCABULARY, pad_id=2, eos_id=3)
    with torch.device("meta"):
        return TimeExpert(model_config(config, text))  # type: ignore[arg-type]


def billions(model: TimeExpert, *parts: str) -> float:
    """Parameters whose name holds any of ``parts``."""
    return sum(p.numel() for name, p in model.named_parameters() if any(part in name for part in parts)) / 1e9


def test_parameters_are_those_of_the_published_model(model: TimeExpert):
    attention = [f"decoder.layers.{i}.self_attn." for i in range(28)]
    assert billions(model, *attention) == pytest.approx(0.734, abs=0.0005)
    assert billions(model, "moe.shared_experts.") == pytest.approx(0.716, abs=0.0005)
    assert billions(model, "moe.experts.") / 64 == pytest.approx(0.358, abs=0.0005)
    assert billions(model, "moe.experts.") == pytest.approx(22.9, abs=0.05)
    assert billions(model, "embedding.text.", "heads.text.") == pytest.approx(0.514, abs=0.0005)
    assert billions(model, "") == pytest.approx(25.3, abs=0.05)


def test_a_frame_is_eight_visual_tokens_and_six_of_time(model: TimeExpert):
    assert model.config.tokens_per_frame == 8 and model.config.time_format.width == 6
    assert 128 * (8 + 6) == 1792  # what 128 frames take of 4096 tokens


def test_the_three_stages_are_the_papers(config: RunConfig):
    assert [(s.kind, s.lr) for s in config.stages] == [("task_modules", 1e-3), ("moe_pretraining", 5e-6), ("sft", 5e-6)]
    videos = [s.steps * s.accumulate * (s.batch_videos or 0) for s in config.stages]
    assert videos == pytest.approx([1.9e6, 0.9e6, 2.3e6], rel=1e-3)  # one epoch each
    assert all((s.weight_decay, s.beta2, s.warmup_ratio) == (0.1, 0.95, 0.01) for s in config.stages)
    assert [list(s.mix) for s in config.stages] == [["stage1"], ["stage2"], ["stage3"]]
