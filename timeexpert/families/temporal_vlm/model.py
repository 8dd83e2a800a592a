"""TemporalVLM: frames with their times and text in, answers in words out (TemporalVLM 3; FACTS B1).

A transformers ``PreTrainedModel``: ``save_pretrained`` and ``from_pretrained`` (safetensors) work as for any other. B
videos, F frames of all of them, N clips, S tokens, V video tokens of a row, D width of the language model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import Cache, LlamaForCausalLM
from transformers import initialization as init

from timeexpert.families.language_model import LanguageVideoLLM
from timeexpert.model.protocol import ModelOutput
from timeexpert.model.row_cache import StepCache
from timeexpert.model.tower import Tower
from timeexpert.moe import Routing

from .aggregators import Aggregator
from .batch import ClipBatch
from .clip_encoder import ClipEncoder
from .config import TemporalVLMConfig
from .frame_encoder import FrameEncoder, tower_of


class TemporalVLM(LanguageVideoLLM):
    """Frame encoder -> clip encoder -> aggregator -> projections -> LLaMA."""

    config_class = TemporalVLMConfig
    base_model_prefix = "temporal_vlm"
    _no_split_modules = ["LlamaDecoderLayer", "InstructBlipEncoderLayer", "InstructBlipQFormerLayer"]

    def __init__(self, config: TemporalVLMConfig) -> None:
        super().__init__(config)
        config.text_config._attn_implementation = config._attn_implementation or "sdpa"
        self.frame_encoder = FrameEncoder(config)
        self.clip_encoder = ClipEncoder(config)
        self.aggregator = Aggregator(config)
        self.projection = nn.Linear(self.aggregator.out_width, config.text_config.hidden_size)
        linear = config.sequence_projection == "linear"
        self.sequence_projection = nn.Linear(config.sequence, config.llm_tokens) if linear else None
        self.llm = LlamaForCausalLM(config.text_config)
        self.complete()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (FrameEncoder, ClipEncoder)):
            init.normal_(module.query_tokens, std=self.config.initializer_range)

    @property
    def decoder(self) -> nn.Module:
        """As :class:`LanguageVideoLLM`."""
        return self.llm.model

    @property
    def features_tower(self) -> Tower:
        """The vision tower: its features may come in place of pixels. The frame Q-Former reads them with the times."""
        return tower_of(self.frame_encoder.vision_model)

    def sharding_units(self) -> list[nn.Module]:
        """Layers of the tower, the frame Q-Former and LLaMA one at a time; clip encoder and aggregator whole."""
        towers = (self.frame_encoder.vision_model.encoder.layers, self.frame_encoder.qformer.encoder.layer)
        layers = [layer for tower in (*towers, self.llm.model.layers) for layer in tower]
        return [*layers, self.clip_encoder, *([self.aggregator] if list(self.aggregator.parameters()) else [])]

    def see(self, frames: Tensor, frame_clips: Tensor, stamp_ids: Tensor, stamp_mask: Tensor, videos: int) -> Tensor:
        """The video tokens (videos, V, D) of ``videos`` videos.

        ``frames`` (F, 3, H, W), or the tower's features (F, P, C) of them, video after video; ``frame_clips`` (F,)
        int64, not falling: ``video * N + clip``; ``stamp_ids``, ``stamp_mask`` (F, T): each frame's sentence with its
        time.
        """
        c = self.config
        tokens, mask = self.frame_encoder(frames, stamp_ids, stamp_mask)
        if not c.mask_timestamp_padding:
            mask = torch.ones_like(mask)
        present, counts = frame_clips.unique_consecutive(return_counts=True)
        clips, there = self.clip_encoder(tokens, mask, counts.tolist())
        slots = clips.new_zeros(videos * c.clips, *clips.shape[1:]).index_copy(0, present, clips)
        slot_mask = there.new_zeros(videos * c.clips, there.shape[1]).index_copy(0, present, there)
        features, there = self.aggregator(slots.unflatten(0, (videos, -1)), slot_mask.unflatten(0, (videos, -1)))
        out = self.projection(features) * there[..., None]  # what is not there is zero, and adds nothing to a sum
        if self.sequence_projection is not None:
            out = self.sequence_projection(out.transpose(1, 2)).transpose(1, 2)
        elif c.sequence_projection == "pool":
            rows = [
                functional.adaptive_avg_pool1d(x[own].t(), c.llm_tokens).t() for x, own in zip(out, there, strict=True)
            ]
            out = torch.stack(rows)
        return out

    def embed(self, input_ids: Tensor, visual: Tensor | None) -> Tensor:
        """Token embeddings (B, S, D) with the video tokens (..., D) in place of their placeholders."""
        holes = input_ids == self.config.video_token_id
        embeds: Tensor = self.get_input_embeddings()(input_ids.masked_fill(holes, 0))
        if visual is None:
            return embeds
        if int(holes.sum()) != visual.shape[:-1].numel():
            raise ValueError(f"{int(holes.sum())} placeholders for {visual.shape[:-1].numel()} video tokens.")
        return embeds.masked_scatter(holes[..., None], visual.to(embeds.dtype))

    def read(
        self,
        input_ids: Tensor,
        visual: Tensor | None = None,
        *,
        cache: Cache | StepCache | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, list[Routing]]:
        """As :class:`timeexpert.model.decoding.Decodes`; there are no routings."""
        return self.step(self.embed(input_ids, visual), cache, position_ids), []

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., vocab_size)."""
        logits: Tensor = self.llm.lm_head(hidden)
        return logits

    def label_logits(self, batch: ClipBatch) -> Tensor:
        """As :class:`timeexpert.model.protocol.VideoLLM`."""
        visual = self.see(
            batch.pixel_values, batch.frame_clips, batch.stamp_ids, batch.stamp_mask, len(batch.input_ids)
        )
        return self.logits_of_labels(self.states(self.embed(batch.input_ids, visual), batch), batch)

    def training_step(self, batch: ClipBatch, counts: dict[str, float]) -> ModelOutput:
        """Next-token cross-entropy of the answers (equations 7 and 8)."""
        loss = self.text_loss(self.label_logits(batch), batch, counts)
        return ModelOutput(loss, {"text": loss})
