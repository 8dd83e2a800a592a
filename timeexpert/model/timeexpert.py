"""TimeExpert: frames and text in, causal event sequences out.

A transformers ``PreTrainedModel``: ``save_pretrained``, ``from_pretrained`` (safetensors) and ``generate``
work as for any other model. B rows, S tokens, N frames, D model dim.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.aria.modeling_aria import AriaProjector

from timeexpert.data.batch import VideoBatch, join_batches
from timeexpert.moe import Experts, ExpertStatistics, Gate, MoELayer, Routing, TokenRole, auxiliary_losses
from timeexpert.tokenization import TokenType

from .compressor import SlotCompressor
from .config import TimeExpertConfig
from .decoder import MoEDecoder
from .number_tokens import TokenEmbedding, TokenHeads
from .protocol import ModelOutput
from .row_cache import StepCache
from .tower import Tower
from .vision import FrameEncoder, tower_of

STREAMS = ("text", "time", "score")


class TimeExpert(PreTrainedModel, GenerationMixin):
    """Vision tower and compressor -> tokens -> MoE decoder -> text, time and score heads (paper section 3)."""

    config_class = TimeExpertConfig
    base_model_prefix = "timeexpert"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = False  # ours: set_gradient_checkpointing
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["MoEDecoderLayer"]
    # bf16 steps are coarser than a rate's moving average moves
    _keep_in_fp32_modules_strict = ["threshold", "activation_rates", "log_scale"]

    def __init__(self, config: TimeExpertConfig) -> None:
        super().__init__(config)
        self.ids = config.id_space
        for part in (config.text_config, config.vision_config):
            part._attn_implementation = config._attn_implementation or "sdpa"
        self.frame_encoder = FrameEncoder(config)
        self.embedding = TokenEmbedding(self.ids, config.text_config.hidden_size, config.text_config.pad_token_id)
        self.decoder = MoEDecoder(config.text_config, config.moe_config, len(TokenType))
        self.heads = TokenHeads(self.ids, config.text_config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, SlotCompressor):
            init.normal_(module.slots)  # N(0, 1), as TRACE
        elif isinstance(module, Experts):
            init.normal_(module.gate_up_proj, std=std)
            init.normal_(module.down_proj, std=std)
        elif isinstance(module, Gate):
            init.normal_(module.weight, std=std)
            init.copy_(module.active_experts, torch.arange(module.config.slots) < module.config.num_experts)
            init.zeros_(module.activation_rates)
            if module.threshold is not None:
                init.zeros_(module.threshold)
            if module.log_scale is not None:
                init.constant_(module.log_scale, math.log(module.config.logit_scale))
            if module.trained_steps is not None:
                init.zeros_(module.trained_steps)
        elif isinstance(module, AriaProjector):
            init.trunc_normal_(module.query, std=std)

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute each decoder layer's activations in the backward pass instead of keeping them."""
        self.decoder.gradient_checkpointing = enabled

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding.text

    def get_output_embeddings(self) -> nn.Module | None:
        return None  # three heads: nothing that tools may tie or resize

    @property
    def features_tower(self) -> Tower:
        """The vision tower: its features may come in place of pixels."""
        return tower_of(self.frame_encoder.vision_tower)

    @property
    def moe_layers(self) -> list[MoELayer]:
        """The MoE layer of each decoder layer."""
        return [layer.moe for layer in self.decoder.layers]  # type: ignore[misc]

    def sharding_units(self) -> list[nn.Module]:
        """What is gathered from other ranks one at a time; the heads, which losses use, stay for the whole step."""
        return [self.frame_encoder, self.embedding, *self.decoder.layers]

    @property
    def gates(self) -> list[Gate]:
        """The gate of each decoder layer."""
        return [layer.gate for layer in self.moe_layers]

    def token_types(self, input_ids: Tensor) -> Tensor:
        """(B, S) int64: the :class:`TokenType` of each id."""
        return torch.stack([input_ids >= start for start in self.ids.starts[1:]]).sum(0)

    def token_roles(self, batch: VideoBatch) -> Tensor:
        """(B, S) int64: the :class:`TokenRole` of each token of a batch."""
        return torch.where(batch.labels >= 0, TokenRole.ANSWER, batch.attention_mask.long())

    def embed(self, input_ids: Tensor, pixel_values: Tensor | None) -> Tensor:
        """Token embeddings with each frame's visual tokens in place of its placeholders: (B, S, D)."""
        if pixel_values is None or pixel_values.shape[0] == 0:
            embeds: Tensor = self.embedding(input_ids)
            return embeds
        return self.embed_visual(input_ids, self.frame_encoder(pixel_values))

    def embed_visual(self, input_ids: Tensor, visual: Tensor) -> Tensor:
        """Token embeddings with ``visual`` (frames, tokens per frame, D) in place of the placeholders: (B, S, D)."""
        embeds = self.embedding(input_ids)
        holes = input_ids == self.ids.vision
        if int(holes.sum()) != visual.shape[0] * visual.shape[1]:
            raise ValueError(
                f"{int(holes.sum())} vision placeholders for {visual.shape[0]} frames of {visual.shape[1]} tokens."
            )
        filled: Tensor = embeds.masked_scatter(holes[..., None], visual.to(embeds.dtype))
        return filled

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, S or logits_to_keep, output_size) over text, sync, time and score ids."""
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config.text_config)
        hidden, _ = self.decoder(
            self.embed(input_ids, pixel_values),
            self.token_types(input_ids),
            attention_mask,
            position_ids,
            past_key_values,
        )
        logits = self.heads(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Beams: a row's frames are repeated together, not each by itself, as its placeholders come."""
        frames = kwargs.pop("pixel_values", None)
        if frames is not None and expand_size > 1 and input_ids is not None:
            counts = (input_ids == self.ids.vision).sum(1) // self.config.tokens_per_frame
            parts = frames.split(counts.tolist())
            frames = torch.cat([part for part in parts for _ in range(expand_size)])
        input_ids, kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return input_ids, {**kwargs, "pixel_values": frames}

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: Cache | None = None, pixel_values: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Frames go in with the prompt only; later steps read them from the cache."""
        inputs = super().prepare_inputs_for_generation(input_ids, past_key_values=past_key_values, **kwargs)
        first = past_key_values is None or past_key_values.get_seq_length() == 0
        inputs["pixel_values"] = pixel_values if first else None
        return inputs

    def read(
        self,
        input_ids: Tensor,
        visual: Tensor | None = None,
        *,
        cache: Cache | StepCache | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, list[Routing]]:
        """As :class:`timeexpert.model.decoding.Decodes`."""
        embeds = self.embed(input_ids, None) if visual is None else self.embed_visual(input_ids, visual)
        hidden, routings = self.decoder(embeds, self.token_types(input_ids), position_ids=position_ids, cache=cache)
        return hidden, routings

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., output_size) over text, sync, time and score ids."""
        logits: Tensor = self.heads(hidden)
        return logits

    def label_counts(self, batch: VideoBatch) -> dict[str, float]:
        """Labels of each stream in a micro-batch (the first token of a row is never a target)."""
        target = batch.labels[:, 1:]
        kinds = self.token_types(target)
        kinds = torch.where(kinds == TokenType.SYNC, TokenType.TEXT, kinds)
        valid = target >= 0
        streams = (TokenType.TEXT, TokenType.TIME, TokenType.SCORE)
        counts = {n: float((valid & (kinds == k)).sum()) for n, k in zip(STREAMS, streams, strict=True)}
        return {**counts, "micro_steps": 1.0}

    def label_logits(self, batch: VideoBatch) -> Tensor:
        """Logits (labels, output_size) from which each label of a batch is told, row by row, in their order."""
        types, embeds = self.token_types(batch.input_ids), self.embed(batch.input_ids, batch.pixel_values)
        hidden, _ = self.decoder(embeds, types, batch.decoder_mask, batch.position_ids)
        logits: Tensor = self.heads(hidden[:, :-1][batch.labels[:, 1:] >= 0])
        return logits

    def training_step(self, batch: VideoBatch, counts: dict[str, float]) -> ModelOutput:
        """Sum of three per-stream mean cross-entropies and the gates' losses (FACTS A4, A7).

        Each stream's sum is divided by ``counts[stream]``, its number of labels over the whole optimizer step,
        so that accumulation gives the gradient of one large batch; a stream without labels adds nothing. The gates'
        losses are means over a micro-batch's tokens, divided by the number of micro-batches.
        """
        types = self.token_types(batch.input_ids)
        embeds = self.embed(batch.input_ids, batch.pixel_values)
        roles = self.token_roles(batch) if self.gates[0].config.adaptive.enabled else None
        hidden, routings = self.decoder(embeds, types, batch.decoder_mask, batch.position_ids, roles=roles)
        target = batch.labels[:, 1:]
        picked = hidden[:, :-1][target >= 0]
        losses = self._stream_losses(picked, target[target >= 0], counts)
        share, valid = 1.0 / max(1.0, counts["micro_steps"]), batch.attention_mask.reshape(-1)
        losses |= auxiliary_losses(self.gates, routings, types.reshape(-1), valid, share)
        return ModelOutput(torch.stack(list(losses.values())).sum(), losses, routings)

    def _stream_losses(self, hidden: Tensor, target: Tensor, counts: dict[str, float]) -> dict[str, Tensor]:
        heads, ids = self.heads, self.ids
        out: dict[str, Tensor] = {}
        text = torch.cat([heads.text.weight, heads.sync.weight])
        blocks = (("text", text, 0), ("time", heads.time.weight, ids.time), ("score", heads.score.weight, ids.score))
        for name, weight, start in blocks:
            own = (target >= start) & (target < start + weight.shape[0])
            logits = F.linear(hidden[own], weight).float()
            total = F.cross_entropy(logits, target[own] - start, reduction="sum")
            out[name] = total / max(1.0, counts[name])
        return out

    def statistics(self) -> ExpertStatistics:
        """A fresh tracker over this model's gates."""
        return ExpertStatistics(self.gates)

    @torch.no_grad()
    def calibrate_gates(self, *batches: VideoBatch) -> None:
        """Set every layer's thresholds on ``batches``, first layer first, so that mean k is the wanted one.

        The batches go through the decoder as one, so that each layer sees what calibrated layers below give it.
        """
        batch = join_batches(batches, self.config.text_config.pad_token_id)
        types = self.token_types(batch.input_ids)
        embeds = self.embed(batch.input_ids, batch.pixel_values)
        valid = batch.attention_mask.bool()
        handles = []
        for layer in self.moe_layers:

            def hook(module: nn.Module, args: tuple[Tensor, Tensor]) -> None:
                module.gate.calibrate(args[0][valid], args[1][valid])  # type: ignore[operator, union-attr]

            handles.append(layer.register_forward_pre_hook(hook))
        try:
            self.decoder(embeds, types, batch.decoder_mask, batch.position_ids)
        finally:
            for handle in handles:
                handle.remove()
