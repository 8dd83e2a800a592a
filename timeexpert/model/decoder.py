"""The decoder: ARIA's attention from transformers, our MoE layers. With ``router=topk`` it equals ARIA's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AriaTextConfig, Cache
from transformers.masking_utils import create_causal_mask
from transformers.models.aria.modeling_aria import (
    AriaTextAttention,
    AriaTextRMSNorm,
    AriaTextRotaryEmbedding,
    rotate_half,
)

from timeexpert.moe import MoEConfig, MoELayer, Routing

from .row_cache import StepCache


class MoEDecoderLayer(nn.Module):
    """Pre-norm attention, pre-norm MoE."""

    def __init__(self, text: AriaTextConfig, moe: MoEConfig, num_token_types: int, index: int) -> None:
        super().__init__()
        self.input_layernorm = AriaTextRMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.self_attn = AriaTextAttention(text, layer_idx=index)
        self.post_attention_layernorm = AriaTextRMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.moe = MoELayer(moe, model_dim=text.hidden_size, num_token_types=num_token_types)

    def forward(
        self,
        x: Tensor,
        types: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: Cache | StepCache | None,
        roles: Tensor | None,
    ) -> tuple[Tensor, Routing]:
        """x (B, S, D), types (B, S) int64 -> (B, S, D) and the layer's routing."""
        if isinstance(cache, StepCache):
            attended = self._attend_in_rows(self.input_layernorm(x), position_embeddings, cache)
        else:
            attended, _ = self.self_attn(
                hidden_states=self.input_layernorm(x),
                attention_mask=mask,
                past_key_values=cache,
                position_embeddings=position_embeddings,
            )
        x = x + attended
        y, routing = self.moe(self.post_attention_layernorm(x), types, roles)
        return x + y, routing

    def _attend_in_rows(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: StepCache) -> Tensor:
        """x (N, 1, D): the tokens of a step, each of which sees its own row alone."""
        attention = self.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, value = (projection(x).view(len(x), -1, 1, attention.head_dim) for projection in projections)
        cos, sin = rotary  # (N, 1, C)
        both = torch.cat([query, key], 1)
        both = both * cos[:, None] + rotate_half(both) * sin[:, None]
        query, key = both.split([query.shape[1], key.shape[1]], 1)
        out = cache.attend(attention.layer_idx, query, key, value, attention.scaling)
        attended: Tensor = attention.o_proj(out.reshape(len(x), 1, -1))
        return attended


class MoEDecoder(nn.Module):
    """Embeddings in, hidden states out, and one :class:`Routing` per layer."""

    def __init__(self, text: AriaTextConfig, moe: MoEConfig, num_token_types: int) -> None:
        super().__init__()
        self.config = text
        self.layers = nn.ModuleList(
            MoEDecoderLayer(text, moe, num_token_types, i) for i in range(text.num_hidden_layers)
        )
        self.norm = AriaTextRMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.rotary_emb = AriaTextRotaryEmbedding(config=text)
        self.gradient_checkpointing = False

    def forward(
        self,
        embeds: Tensor,
        types: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | StepCache | None = None,
        roles: Tensor | None = None,
    ) -> tuple[Tensor, list[Routing]]:
        """embeds (B, S, D), types (B, S) -> hidden (B, S, D), routings.

        ``attention_mask``: (B, past + S) true where there is a token, or (B, 1, S, S) true where one token may
        see another (several questions packed behind one video). ``roles`` (B, S): see ``timeexpert.moe.TokenRole``.
        With a :class:`StepCache` S is 1, ``position_ids`` (B, 1) are given and there is no mask.
        """
        if position_ids is None:
            assert not isinstance(cache, StepCache)
            past = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(embeds.shape[1], device=embeds.device) + past)[None]
        mask = attention_mask
        if mask is not None and mask.dim() == 4:
            attention = self.config._attn_implementation
            if attention not in ("sdpa", "eager"):
                raise ValueError(f"{attention} takes no mask of questions packed behind one video; use attention sdpa.")
            if attention == "eager":  # adds the mask to the scores
                mask = torch.zeros_like(mask, dtype=embeds.dtype).masked_fill(~mask, torch.finfo(embeds.dtype).min)
        elif not isinstance(cache, StepCache):
            mask = create_causal_mask(
                config=self.config,
                inputs_embeds=embeds,
                attention_mask=attention_mask,
                past_key_values=cache,
                position_ids=position_ids,
            )
        rotary = self.rotary_emb(embeds, position_ids)
        x, routings = embeds, []
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x, routing = checkpoint(layer, x, types, rotary, mask, cache, roles, use_reentrant=False)
            else:
                x, routing = layer(x, types, rotary, mask, cache, roles)
            routings.append(routing)
        return self.norm(x), routings
