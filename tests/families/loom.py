"""A VideoLoom of some hundred thousand weights, and noise to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from timeexpert.data.collate import Reading, Row, build_row
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.records import Sample
from timeexpert.families import family
from timeexpert.families.video_loom.batch import LoomWriter
from timeexpert.families.video_loom.model import VideoLoom
from timeexpert.families.video_loom.settings import (
    LlmConfig,
    LoraConfig,
    MaskLossConfig,
    ModelConfig,
    SamConfig,
    VisionConfig,
)
from timeexpert.tokenization import Event, EventSequence
from timeexpert.tokenization.text import SentencePieceText

FAMILY = family("video_loom")
SIZE = 64  # of SAM2's frames; InternVL's are half as large
TINY: dict[str, Any] = {
    "vision": VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=4
    ),
    "llm": LlmConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_theta=1e4,
        max_position_embeddings=2048,
    ),
    "sam": SamConfig(
        image_size=SIZE,
        backbone_width=8,
        backbone_heads=1,
        blocks=(1, 1, 2, 1),
        windows=(4, 2, 4, 2),
        global_blocks=(3,),
        position_size=4,
        hidden_size=64,
        decoder_heads=2,
        mlp_dim=16,
        memory_layers=1,
        fuser_dim=16,
    ),
    "lora": LoraConfig(rank=0),
    "mask_loss": MaskLossConfig(points=None),
    "max_frames": 12,
    "keyframes": 2,
    "fast_pool": 2,
    "initializer_range": 0.1,
}


def settings(**changes: Any) -> ModelConfig:
    """The tiny model's settings."""
    return ModelConfig(**{**TINY, **changes})


def make(text: SentencePieceText, seed: int = 0, **changes: Any) -> VideoLoom:
    """The tiny model with seeded weights, biases and SAM2's zeros not left at zero, that sees an object everywhere."""
    own = settings(**changes)
    torch.manual_seed(seed)
    model: VideoLoom = FAMILY.new(FAMILY.config(own, text, "sdpa"), own, text).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" not in name and (parameter.ndim == 1 or not parameter.any()):
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.mask_head.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(9.0)
    return model


def always_says(model: VideoLoom, text: SentencePieceText, tokens: Sequence[int]) -> None:
    """Let ``model`` answer every question with ``tokens``, all different: a token's state is the next one's head."""
    words, heads = model.get_input_embeddings().weight, model.mllm.lm_head.weight
    chain = [text.prompt("")[1][-1], *tokens, text.eos_id]
    assert len(set(chain)) == len(chain) <= model.config.text_config.hidden_size
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for table in (words, heads, model.seg_embedding, model.seg_output):
            table.zero_()
        for place, (token, following) in enumerate(pairwise(chain)):
            (model.seg_embedding[0] if token == text.vocab_size else words[token])[place] = 1.0
            (model.seg_output[0] if following == text.vocab_size else heads[following])[place] = 1.0


def noise(frames: int, seed: int = 0) -> np.ndarray:
    """uint8 [frames, SIZE, SIZE, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (frames, SIZE, SIZE, 3), dtype=np.uint8)


def track(frames: int, seed: int = 0, size: tuple[int, int] = (20, 30)) -> MaskTrack:
    """A box that goes to the right, 5 pixels a frame, at the times of :func:`row`."""
    masks = np.zeros((frames, *size), dtype=bool)
    for i in range(frames):
        masks[i, 4:14, 2 * i + seed : 2 * i + seed + 10] = True
    return MaskTrack.from_masks(list(masks), times_s(frames))


def times_s(frames: int) -> list[float]:
    """The middles of intervals of 1.5 s."""
    return [1.5 * i + 0.75 for i in range(frames)]


def sample(task: str, frames: int, objects: int = 0, name: str = "q") -> Sample:
    """A question about a video of ``frames`` times 1.5 s."""
    events = EventSequence((Event(0.0, 1.5, (3.0,) if task == "highlight_detection" else (), "a box moves"),))
    tracks = tuple(track(frames, seed) for seed in range(objects))
    made = Sample(id=name, video="v.mp4", task=task, prompt="The box?", events=events, duration_s=1.5 * frames)
    return replace(made, tracks=tracks)


def row(writer: LoomWriter, frames: int, *samples: Sample, seed: int = 0) -> Row:
    """A row about ``frames`` frames of noise."""
    made, dropped = build_row(writer, samples, noise(frames, frames), times_s(frames), Reading((frames,)))
    assert not dropped, dropped
    made.seed = seed
    return made


def writer_of(model: VideoLoom, text: SentencePieceText) -> LoomWriter:
    return LoomWriter.of(model.config, text)
