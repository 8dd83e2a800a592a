"""Time-aware frame encoder: EVA ViT-g/14 and InstructBLIP's Q-Former from transformers' own classes (FACTS B1, 2 and
3).

F frames, Q query tokens, T tokens of the sentence with the time, C width of the Q-Former.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel, InstructBlipVisionModel

from .config import TemporalVLMConfig

# Mean and standard deviation of RGB that CLIP and EVA were trained with, as InstructBLIP's processor has them.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
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


class FrameEncoder(nn.Module):
    """Frames with their sampling times -> tokens. Submodules have InstructBLIP's names, so that its weights fit."""

    def __init__(self, config: TemporalVLMConfig) -> None:
        super().__init__()
        config.vision_config._attn_implementation = "sdpa"
        self.vision_model = InstructBlipVisionModel(config.vision_config)
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_queries, config.qformer_config.hidden_size))
        nn.init.normal_(self.query_tokens, std=config.initializer_range)
        self.qformer = make_qformer(config.qformer_config, text=config.timestamps)
        self.timestamps, self.slice_queries = config.timestamps, config.slice_query_tokens

    def forward(self, frames: Tensor, stamp_ids: Tensor, stamp_mask: Tensor) -> tuple[Tensor, Tensor]:
        """frames (F, 3, H, W) uint8, or normalised floats; stamp_ids, stamp_mask (F, T): the tokenised sentence.

        Returns (F, Q, C) and its mask (F, Q), all true; with the sentence's tokens behind, (F, Q + T, C), where they
        are not sliced off.
        """
        seen = self.look(frames)
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

    def look(self, frames: Tensor) -> Tensor:
        """(F, 3, H, W) -> (F, patches + 1, D): the tower's last hidden state behind its last norm."""
        weight = next(self.vision_model.parameters())
        if frames.dtype == torch.uint8:
            mean, std = (frames.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
            frames = (frames.float() / 255 - mean) / std
        trains = any(p.requires_grad for p in self.vision_model.parameters())
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            parts = frames.to(weight.dtype).split(FRAMES_AT_ONCE)
            return torch.cat([self.vision_model(pixel_values=part).last_hidden_state for part in parts])
