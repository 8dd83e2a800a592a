"""A TemporalVLM of some ten thousand weights, and noise to look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from timeexpert.families import family
from timeexpert.families.temporal_vlm.batch import ClipWriter
from timeexpert.families.temporal_vlm.model import TemporalVLM
from timeexpert.families.temporal_vlm.settings import (
    LlamaSizes,
    LoraConfig,
    ModelConfig,
    QFormerConfig,
    VisionConfig,
)
from timeexpert.tokenization.text import SentencePieceText

FAMILY = family("temporal_vlm")
TINY: dict[str, Any] = {
    "vision": VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    ),
    "qformer": QFormerConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_queries=2,
        dropout=0.0,
    ),
    "llm": LlamaSizes(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
    ),
    "lora": LoraConfig(rank=0),
    "clips": 3,
    "frames_per_clip": 5,
    "window": 3,
    "overlap": 1,
    "video_layers": 1,
    "video_queries": 3,
    "fusion_heads": 2,
    "tokens_per_clip": 4,
    "llm_tokens": 6,
    "initializer_range": 0.1,
}


def settings(**changes: Any) -> ModelConfig:
    """The tiny model's settings."""
    return ModelConfig(**{**TINY, **changes})


def make(text: SentencePieceText, seed: int = 0, **changes: Any) -> TemporalVLM:
    """The tiny model with seeded weights, biases not left at zero."""
    own = settings(**changes)
    torch.manual_seed(seed)
    model: TemporalVLM = FAMILY.new(FAMILY.config(own, text, "sdpa"), own, text).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def noise(frames: int, seed: int = 0) -> np.ndarray:
    """uint8 [frames, 16, 16, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (frames, 16, 16, 3), dtype=np.uint8)


def writer_of(model: TemporalVLM, text: SentencePieceText) -> ClipWriter:
    return ClipWriter.of(model.config, text)


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceText:
    texts = [
        "When does the circle grow?",
        "0.5 - 12.5 seconds, place the part.",
        "This frame is sampled at 1.5 second.",
    ]
    return SentencePieceText.train(texts, 320, tmp_path_factory.mktemp("words"))
