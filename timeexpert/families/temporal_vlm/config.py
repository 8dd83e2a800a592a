"""TemporalVLMConfig: the transformers config of the model, from which weights are shaped."""

from __future__ import annotations

from typing import Any

from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    PretrainedConfig,
)

from .windows import ClipTokens, Partial


class TemporalVLMConfig(PretrainedConfig):
    """Vision tower, the two Q-Formers, LLaMA, and the switches of :class:`.settings.ModelConfig` by the same names.

    ``clip_length``, ``sequence``: tokens of a clip and behind the aggregator. ``stamp_tokenizer``: the tokenizer.json
    of the frame Q-Former's tokenizer; None: the language model's.
    """

    model_type = "temporal_vlm"
    sub_configs = {
        "vision_config": InstructBlipVisionConfig,
        "qformer_config": InstructBlipQFormerConfig,
        "video_config": InstructBlipQFormerConfig,
        "text_config": LlamaConfig,
    }

    def __init__(
        self,
        vision_config: dict[str, Any] | PretrainedConfig | None = None,
        qformer_config: dict[str, Any] | PretrainedConfig | None = None,
        video_config: dict[str, Any] | PretrainedConfig | None = None,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        num_queries: int = 32,
        lora: dict[str, Any] | None = None,
        clips: int = 6,
        frames_per_clip: int = 96,
        window: int = 32,
        overlap: int = 16,
        video_queries: int = 32,
        fusion: bool = True,
        fusion_heads: int = 8,
        fusion_residual: bool = False,
        clip_tokens: ClipTokens = "pool",
        clip_length: int = 96,
        aggregator: str = "bilstm",
        sequence_projection: str = "linear",
        sequence: int = 576,
        llm_tokens: int = 96,
        timestamps: bool = True,
        slice_query_tokens: bool = True,
        mask_timestamp_padding: bool = True,
        partial_windows: Partial = "last",
        prompt_times: str = "none",
        stamp_tokenizer: str | None = None,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        given = {
            "vision_config": vision_config,
            "qformer_config": qformer_config,
            "video_config": video_config,
            "text_config": text_config,
        }
        for name, value in given.items():
            if not isinstance(value, PretrainedConfig):
                value = self.sub_configs[name](**{k: v for k, v in (value or {}).items() if k != "model_type"})
            setattr(self, name, value)
        self.num_queries = num_queries
        self.lora = dict(lora or {})
        self.clips, self.frames_per_clip = clips, frames_per_clip
        self.window, self.overlap, self.partial_windows = window, overlap, partial_windows
        self.video_queries = video_queries
        self.fusion, self.fusion_heads, self.fusion_residual = fusion, fusion_heads, fusion_residual
        self.clip_tokens, self.clip_length = clip_tokens, clip_length
        self.aggregator, self.sequence_projection = aggregator, sequence_projection
        self.sequence, self.llm_tokens = sequence, llm_tokens
        self.timestamps, self.slice_query_tokens = timestamps, slice_query_tokens
        self.mask_timestamp_padding, self.prompt_times = mask_timestamp_padding, prompt_times
        self.stamp_tokenizer = stamp_tokenizer
        self.initializer_range = initializer_range
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            kwargs.setdefault(name, getattr(self.text_config, name, None))
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)

    @property
    def video_token_id(self) -> int:
        """The placeholder of one video token: the first id behind the text vocabulary."""
        return int(self.text_config.vocab_size)
