"""VideoLoom: frames and text in; answers in words, whose [SEG] tokens are masks, out (FACTS D1 to D3).

A transformers ``PreTrainedModel``: ``save_pretrained`` and ``from_pretrained`` (safetensors) work as for any other. B
rows, F frames of all of them, K keyframes of a row, O objects, D width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import Cache, InternVLForConditionalGeneration
from transformers import initialization as init

from timeexpert.families.language_model import LanguageVideoLLM
from timeexpert.model.protocol import ModelOutput
from timeexpert.model.row_cache import StepCache
from timeexpert.moe import Routing

from .batch import LoomBatch
from .config import VideoLoomConfig
from .mask_head import FRAMES_AT_ONCE, MaskHead, normalised
from .mask_losses import mask_losses
from .visual import pool_tokens


class VideoLoom(LanguageVideoLLM):
    """InternVL with slow and fast tokens, [SEG], and SAM2 behind an MLP."""

    config_class = VideoLoomConfig
    base_model_prefix = "video_loom"
    _no_split_modules = ["Qwen2DecoderLayer", "LlamaDecoderLayer", "InternVLVisionLayer", "Sam2MultiScaleBlock"]

    def __init__(self, config: VideoLoomConfig) -> None:
        super().__init__(config)
        config.text_config._attn_implementation = config._attn_implementation or "sdpa"
        config.mllm_config.vision_config._attn_implementation = "sdpa"
        self.mllm = InternVLForConditionalGeneration(config.mllm_config)
        width = config.text_config.hidden_size
        # beside the tables of words, so that published ones fit whatever is added
        self.seg_embedding = nn.Parameter(torch.empty(1, width))
        self.seg_output = nn.Parameter(torch.empty(1, width))
        self.mask_head = MaskHead(config.sam_config, width, config.multimask)
        self.complete()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VideoLoom):
            init.normal_(module.seg_embedding, std=self.config.initializer_range)
            init.normal_(module.seg_output, std=self.config.initializer_range)

    @property
    def decoder(self) -> Any:
        """As :class:`LanguageVideoLLM`."""
        return self.mllm.model.language_model

    def sharding_units(self) -> list[nn.Module]:
        """Layers of InternVL's tower and decoder one at a time."""
        return [*self.mllm.model.vision_tower.encoder.layer, *self.decoder.layers]

    def look(self, frames: Tensor) -> Tensor:
        """Frames (F, 3, H, W), uint8 or normalised, as tokens of keyframes (F, G * G, D)."""
        inner = self.mllm.model
        parts = (inner.vision_tower, inner.multi_modal_projector)
        trains = any(p.requires_grad for part in parts for p in part.parameters())
        pixels = normalised(frames, next(inner.vision_tower.parameters()).dtype)
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            seen = [inner.get_image_features(pixel_values=p).pooler_output for p in pixels.split(FRAMES_AT_ONCE)]
            return torch.cat(seen)

    def fast(self, tokens: Tensor) -> Tensor:
        """Tokens of keyframes (F, G * G, D) as those of fast frames (F, (G / R) ** 2, D)."""
        return pool_tokens(tokens, self.config.grid, self.config.fast_pool, self.config.pooling)

    def slow_and_fast(self, batch: LoomBatch) -> tuple[list[Tensor], list[Tensor]]:
        """Per row, the tokens of its fast frames (N * fast_tokens, D) and of its keyframes (K * slow_tokens, D)."""
        tokens = self.look(batch.pixel_values).split(batch.frame_counts.tolist())
        fast = [self.fast(own).flatten(0, 1) for own in tokens]
        slow = [own[drawn].flatten(0, 1) for own, drawn in zip(tokens, batch.keyframes, strict=True)]
        return fast, slow

    def embed(self, input_ids: Tensor, fast: Sequence[Tensor] = (), slow: Sequence[Tensor] = ()) -> Tensor:
        """Token embeddings (B, S, D), with each row's ``fast`` and ``slow`` tokens in place of their placeholders.

        A row may have them several times over, one for each of its questions.
        """
        c = self.config
        embeds: Tensor = self.get_input_embeddings()(input_ids.masked_fill(input_ids >= c.seg_token_id, 0))
        embeds = torch.where((input_ids == c.seg_token_id)[..., None], self.seg_embedding.to(embeds.dtype), embeds)
        for token, sources in ((c.fast_token_id, fast), (c.slow_token_id, slow)):
            holes = input_ids == token
            counts = holes.sum(1).tolist()
            if not any(counts):
                continue
            if len(sources) != len(counts) or any(n % len(s) for n, s in zip(counts, sources, strict=True)):
                raise ValueError(f"{counts} placeholders for {[len(s) for s in sources]} visual tokens.")
            rows = [s.repeat(n // len(s), 1) for n, s in zip(counts, sources, strict=True)]
            embeds = embeds.masked_scatter(holes[..., None], torch.cat(rows).to(embeds.dtype))
        return embeds

    def read(
        self,
        input_ids: Tensor,
        visual: Tensor | None = None,
        *,
        cache: Cache | StepCache | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, list[Routing]]:
        """As :class:`timeexpert.model.decoding.Decodes`; ``visual`` (V, D) of one video: fast tokens, then slow ones.
        There are no routings."""
        if visual is None:
            embeds = self.embed(input_ids)
        else:
            slow = 0 if self.config.visual == "fast" else self.config.keyframes * self.config.slow_tokens
            fast = len(visual) - slow
            embeds = self.embed(input_ids, [visual[:fast]] if fast else (), [visual[fast:]] if slow else ())
        return self.step(embeds, cache, position_ids), []

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., vocab_size + 1): the last one is [SEG]."""
        seg = hidden @ self.seg_output.to(hidden.dtype).t()
        return torch.cat([self.mllm.lm_head(hidden), seg], -1)

    def label_logits(self, batch: LoomBatch) -> Tensor:
        """As :class:`timeexpert.model.protocol.VideoLLM`."""
        return self.logits_of_labels(self._hidden(batch), batch)

    def _hidden(self, batch: LoomBatch) -> Tensor:
        return self.states(self.embed(batch.input_ids, *self.slow_and_fast(batch)), batch)

    def label_counts(self, batch: Any) -> dict[str, float]:
        """As :class:`LanguageVideoLLM`, and the masks: objects x keyframes."""
        return {**super().label_counts(batch), "masks": float(batch.masks.shape[:2].numel())}

    def training_step(self, batch: LoomBatch, counts: dict[str, float]) -> ModelOutput:
        """Next-token cross-entropy of the answers, and cross-entropy and Dice of the keyframes' masks (FACTS D3), these
        unless nothing of the mask head trains: what a new head says of [SEG] would only wear its state down.

        Sums, divided by ``counts["text"]`` and ``counts["masks"]``, those of the whole optimizer step: accumulation and
        ranks then give the gradient of one large batch.
        """
        hidden = self._hidden(batch)
        losses = {"text": self.text_loss(self.logits_of_labels(hidden, batch), batch, counts)}
        if any(p.requires_grad for p in self.mask_head.parameters()):
            states = hidden[batch.input_ids == self.config.seg_token_id]
            masks = self._mask_losses(batch, states).items()
            losses |= {name: value / max(1.0, counts["masks"]) for name, value in masks}
        return ModelOutput(torch.stack(list(losses.values())).sum(), losses)

    def _mask_losses(self, batch: LoomBatch, states: Tensor) -> dict[str, Tensor]:
        """Weighted sums over objects and keyframes, from the states (O, D) of the [SEG] tokens themselves."""
        if len(states) != len(batch.masks):
            raise ValueError(f"{len(states)} [SEG] tokens for {len(batch.masks)} objects with masks.")
        frames, rows, truth, share = batch.sam_values, batch.mask_rows, batch.masks, 1.0
        if not len(states):
            if not (dist.is_available() and dist.is_initialized()):
                return {}
            # every rank's backward pass has to reach the same parameters: one dark frame that counts for nothing
            k, size = self.config.keyframes, truth.shape[-1]
            frames, rows = frames.new_zeros(k, *frames.shape[1:]), rows.new_zeros(1)
            states, truth, share = self.seg_embedding, truth.new_zeros(1, k, size, size), 0.0
        keyframes = truth.shape[1]
        places = (rows[:, None] * keyframes + torch.arange(keyframes, device=rows.device)).flatten()
        features = [level[places] for level in self.mask_head.features(frames)]
        prompts = self.mask_head.projection(states.to(next(self.mask_head.projection.parameters()).dtype))
        masks, scores = self.mask_head.decode(features, prompts.repeat_interleave(keyframes, 0))
        truth, weights = truth.flatten(0, 1), self.config.mask_loss
        bce, dice = mask_losses(
            masks,
            truth,
            points=weights["points"],
            oversample=weights["oversample"],
            importance=weights["importance"],
        )
        there = (truth.amax((1, 2)) >= 0.5).float()
        score = functional.binary_cross_entropy_with_logits(scores.float(), there, reduction="sum")
        losses = {"mask_bce": weights["bce"] * bce, "mask_dice": weights["dice"] * dice}
        if weights["objectness"]:
            losses["objectness"] = weights["objectness"] * score
        return {name: share * value for name, value in losses.items()}
