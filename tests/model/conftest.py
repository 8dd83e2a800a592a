"""A tiny model with a real tokenizer, and videos of noise, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from timeexpert.data.collate import EventWriter, Reading, Row, build_row
from timeexpert.data.records import Sample
from timeexpert.model import TimeExpert, TimeExpertConfig
from timeexpert.tokenization import Event, EventCodec, EventSequence
from timeexpert.tokenization.text import SentencePieceText

SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "vision_use_head": False,
}
IDEFICS = {**{k: v for k, v in SIGLIP.items() if k != "vision_use_head"}, "model_type": "idefics3_vision"}
DECODER = {
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "bos_token_id": None,
}
MOE = {"num_experts": 4, "expert_dim": 16, "num_shared_experts": 1, "top_k": 2, "task_loss": 0.1, "norm_loss": 1e-3}
TOKENS_PER_FRAME = 2

Make = Callable[..., TimeExpert]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceText:
    corpus = ["a red square grows", "when does it grow?", "what happens?", "two blue circles"]
    return SentencePieceText.train(corpus, 320, tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def codec(text: SentencePieceText) -> EventCodec:
    return EventCodec(text)


def tiny_config(vocab_size: int = 40, vision: dict[str, Any] = SIGLIP, **settings: Any) -> TimeExpertConfig:
    """16-pixel frames in 16 patches, two layers, four experts; ``settings`` beside the sizes."""
    moe = {**MOE, **settings.pop("moe", {})}
    decoder = {**DECODER, "vocab_size": vocab_size, "pad_token_id": 0, "eos_token_id": 2, **settings.pop("decoder", {})}
    settings = {
        "projector_queries": {16: 4},
        "tokens_per_frame": TOKENS_PER_FRAME,
        "initializer_range": 0.2,
        **settings,
    }
    return TimeExpertConfig(vision_config=vision, text_config=decoder, moe=moe, **settings)


@pytest.fixture
def make(text: SentencePieceText) -> Make:
    """``make(**settings)``: a tiny model of the session's vocabulary, always with the same random weights."""

    def build(**settings: Any) -> TimeExpert:
        torch.manual_seed(0)
        model = TimeExpert(tiny_config(text.vocab_size, **settings))
        model.embedding.initialise_numbers(text.digit_ids(), text.point_id())
        return model.eval()

    return build


def noise_frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def questions() -> list[Sample]:
    """Three questions about one video of 8 s, one of each kind."""
    answers = [
        ("moment_retrieval", "when does it grow?", [Event(1.5, 4.0, (), "a red square grows")]),
        (
            "highlight_detection",
            "what happens?",
            [Event(2.0, 2.0, (3.5,), "two blue circles"), Event(6.0, 6.0, (1.0,))],
        ),
        ("general", "what happens?", [Event(text="two blue circles")]),
    ]
    return [
        Sample(id=f"q{i}", video="v.mp4", task=task, prompt=prompt, events=EventSequence(tuple(events)), duration_s=8.0)
        for i, (task, prompt, events) in enumerate(answers)
    ]


def row_of(
    codec: EventCodec, text: SentencePieceText, samples: list[Sample], num_frames: int = 3, seed: int = 0
) -> Row:
    """One token row with all ``samples`` behind the frames of one video."""
    times_s = np.arange(num_frames) * 2.0
    writer = EventWriter(codec, text, TOKENS_PER_FRAME)
    row, dropped = build_row(writer, samples, noise_frames(num_frames, seed), times_s.tolist(), Reading((num_frames,)))
    assert not dropped
    return row
