"""What models around a language model of transformers share: no experts, answers in words.

B rows, S tokens, D width of the language model.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from timeexpert.config import to_tree
from timeexpert.data.batch import VideoBatch
from timeexpert.model.row_attention import rows_attention
from timeexpert.model.row_cache import StepCache
from timeexpert.model.tower import Tower
from timeexpert.moe import ExpertStatistics, Gate, MoELayer
from timeexpert.tokenization.text import TextTokenizer

from .language_settings import LlmSizes
from .lora import add_lora


def text_config(llm: LlmSizes, text: TextTokenizer, initializer_range: float) -> dict[str, Any]:
    """The language model's transformers config as a mapping."""
    sizes = to_tree(llm)
    return {
        "rope_parameters": {"rope_type": "default", "rope_theta": sizes.pop("rope_theta")},
        **sizes,
        "initializer_range": initializer_range,
        "vocab_size": text.vocab_size,
        "pad_token_id": text.pad_id,
        "eos_token_id": text.eos_id,
        "bos_token_id": None,
        "tie_word_embeddings": False,
    }


class LanguageVideoLLM(PreTrainedModel):
    """As :class:`timeexpert.model.protocol.VideoLLM`, but for what a family's model has to say itself."""

    main_input_name = "input_ids"
    supports_gradient_checkpointing = False  # ours: set_gradient_checkpointing
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @property
    def features_tower(self) -> Tower | None:
        """None: frames only."""
        return None

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """The language model without its head."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> logits of all tokens that may be written."""

    def complete(self) -> None:
        """What a constructor ends with: initial weights, then LoRA, which brings its own."""
        self.post_init()
        if self.config.lora.get("rank"):
            add_lora(self.decoder, self.config.lora)

    def get_input_embeddings(self) -> Any:
        return self.decoder.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        return None  # nothing that tools may tie or resize

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Recompute each layer of transformers' parts in the backward pass instead of keeping its activations."""
        for module in self.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.gradient_checkpointing = enabled
                module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    @property
    def moe_layers(self) -> list[MoELayer]:
        """None."""
        return []

    @property
    def gates(self) -> list[Gate]:
        """None."""
        return []

    def statistics(self) -> ExpertStatistics:
        """Of no experts."""
        return ExpertStatistics([])

    def step(self, embeds: Tensor, cache: Cache | StepCache | None, position_ids: Tensor | None) -> Tensor:
        """States (B, S, D) of new tokens while answers are written, from their embeddings (B, S, D)."""
        if isinstance(cache, StepCache):
            with rows_attention(self.config.text_config):
                out = self.decoder(inputs_embeds=embeds, position_ids=position_ids, use_cache=False, rows=cache)
        else:
            out = self.decoder(inputs_embeds=embeds, past_key_values=cache, use_cache=cache is not None)
        states: Tensor = out.last_hidden_state
        return states

    def states(self, embeds: Tensor, batch: VideoBatch) -> Tensor:
        """States (B, S, D) of a whole batch, from its embeddings (B, S, D)."""
        mask, attention = batch.decoder_mask, self.config.text_config._attn_implementation
        if mask.dim() == 4 and attention not in ("sdpa", "eager"):
            raise ValueError("questions packed behind one video need attention sdpa or eager.")
        if mask.dim() == 4 and attention == "eager":
            mask = torch.zeros_like(mask, dtype=embeds.dtype).masked_fill(~mask, torch.finfo(embeds.dtype).min)
        states: Tensor = self.decoder(
            inputs_embeds=embeds, attention_mask=mask, position_ids=batch.position_ids, use_cache=False
        ).last_hidden_state
        return states

    def logits_of_labels(self, states: Tensor, batch: VideoBatch) -> Tensor:
        """Logits (labels, ...) from which each label of a batch is told, row by row, in their order."""
        return self.logits(states[:, :-1][batch.labels[:, 1:] >= 0])

    def label_counts(self, batch: VideoBatch) -> dict[str, float]:
        """Labels of a micro-batch (the first token of a row is never a target)."""
        return {"text": float((batch.labels[:, 1:] >= 0).sum())}

    def text_loss(self, logits: Tensor, batch: VideoBatch, counts: dict[str, float]) -> Tensor:
        """Next-token cross-entropy of the answers from :meth:`logits_of_labels`, summed and divided by
        ``counts["text"]``, the labels of the whole optimizer step: accumulation and ranks then give the gradient of
        one large batch."""
        target = batch.labels[:, 1:]
        total = functional.cross_entropy(logits.float(), target[target >= 0], reduction="sum")
        return total / max(1.0, counts["text"])
