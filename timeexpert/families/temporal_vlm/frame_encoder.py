"""Time-aware frame encoder: EVA ViT-g/14 and InstructBLIP's Q-Former from transformers' own classes (FACTS B1, 2 and
3).

F frames, Q query tokens, T tokens of the sentence with the time, C width of the Q-Former.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel, InstructBlipVisionModel

from timeexpert.model.tower import Tower

from .config import TemporalVLMConfig

# Mean and standard deviation of RGB that CLIP and EVA were trained with, as InstructBLIP's processor has them.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
PIXELS = "squares of image_size, RGB from 0 to 1 less CLIP's mean, over its deviation"  # what the tower is given
FRAMES_AT_ONCE = 64  # through the vision tower, whose activations would fill a GPU for a long video


def query_only(qformer: InstructBlipQFormerModel) -> InstructBlipQFormerModel:
    """Without what a Q-Former has for text: word and position tables, and the feed-forward path of text tokens."""
    qformer.embeddings.word_embeddings = None
    qformer.embeddings.position_embeddings = None
    for layer in qformer.encoder.layer:
        layer.intermediate = layer.output = None
    return qformer


def make_qformer(config: InstructBlipQFormerConfig, *, text: bool) -> InstructBlipQFormerModel:
    """A Q-Former of new weights, with or without its path for text."""
    config._attn_implementation = "sdpa"  # masks come with it
    qformer = InstructBlipQFormerModel(config)
    return qformer if text else query_only(qformer)


def make_tower(config: TemporalVLMConfig) -> InstructBlipVisionModel:
    """The vision tower of new weights."""
    config.vision_config._attn_implementation = "sdpa"
    return InstructBlipVisionModel(config.vision_config)


def tower_of(module: nn.Module) -> Tower:
    """A vision tower as TemporalVLM uses it."""
    return Tower(module, partial(tower_features, module), PIXELS)


def tower_features(tower: nn.Module, frames: Tensor) -> Tensor:
    """(F, 3, H, W) uint8, or normalised floats -> (F, P, C): the tower's last hidden state behind its last norm. P is
    a class token and the patches."""
    if frames.dtype == torch.uint8:
        mean, std = (frames.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
        frames = (frames.float() / 255 - mean) / std
    trains = any(p.requires_grad for p in tower.parameters())
    with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
        parts = frames.to(next(tower.parameters()).dtype).split(FRAMES_AT_ONCE)
        return torch.cat([tower(pixel_values=part).last_hidden_state for part in parts])


class FrameEncoder(nn.Module):
    """Frames with their sampling times -> tokens. Submodules have InstructBLIP's names, so that its weights fit."""

    def __init__(self, config: TemporalVLMConfig) -> None:
        super().__init__()
        self.vision_model = make_tower(config)
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_queries, config.qformer_config.hidden_size))
        nn.init.normal_(self.query_tokens, std=config.initializer_range)
        self.qformer = make_qformer(config.qformer_config, text=config.timestamps)
        self.timestamps, self.slice_queries = config.timestamps, config.slice_query_tokens

    def forward(self, frames: Tensor, stamp_ids: Tensor, stamp_mask: Tensor) -> tuple[Tensor, Tensor]:
        """frames (F, 3, H, W) uint8 or normalised floats, or the tower's features (F, P, C) of them; stamp_ids,
        stamp_mask (F, T): the tokenised sentence.

        Returns (F, Q, C) and its mask (F, Q), all true; with the sentence's tokens behind, (F, Q + T, C), where they
        are not sliced off.
        """
        tower = self.vision_model
        features = frames.ndim == 3
        seen = frames.to(next(tower.parameters()).dtype) if features else tower_features(tower, frames)
        queries = self.query_tokens.expand(len(frames), -1, -1)
        mask = torch.ones(queries.shape[:2], dtype=torch.bool, device=frames.device)
        if self.timestamps:
            mask = torch.cat([mask, stamp_mask], 1)
        out = self.qformer(
            input_ids=stamp_ids if self.timestamps else None,
            attention_mask=mask.long(),
            query_embeds=queries,
            encoder_hidden_states=seen,
        ).last_hidden_state
        return (out[:, : queries.shape[1]], mask[:, : queries.shape[1]]) if self.slice_queries else (out, mask)
