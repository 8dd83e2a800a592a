"""TimeExpert as an entry of the registry."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import AutoModel

from timeexpert.config import to_tree
from timeexpert.data.collate import EventWriter
from timeexpert.families.base import Family, differences
from timeexpert.model import TimeExpert, TimeExpertConfig
from timeexpert.model.answering import EventAnswering
from timeexpert.model.tower import Tower
from timeexpert.model.vision import tower_of
from timeexpert.tokenization import EventCodec
from timeexpert.tokenization.text import TextTokenizer

from .settings import PREFIXES, ModelConfig

# What weights are shaped by, and how frames become tokens: these must agree with the folder that a run starts from.
VISION_SHAPES = ("model_type", "hidden_size", "num_hidden_layers", "image_size", "patch_size")
TEXT_SHAPES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
MOE_SHAPES = ("router", "num_experts", "max_experts", "expert_dim", "num_shared_experts")
OWN_SHAPES = ("compressor", "tokens_per_frame", "time_digits", "score_digits")


class TimeExpertFamily(Family):
    """Event sequences, number tokens, experts."""

    config_class = TimeExpertConfig
    model_class = TimeExpert
    tower_prefix = "frame_encoder.vision_tower."
    prefixes = {name: part for part, names in PREFIXES.items() for name in names}

    def config(self, settings: ModelConfig, text: TextTokenizer, attention: str) -> TimeExpertConfig:
        """As :class:`Family`."""
        vision = {k: v for k, v in to_tree(settings.vision).items() if k != "extra"}
        decoder = to_tree(settings.decoder)
        rope = {"rope_type": "default", "rope_theta": decoder.pop("rope_theta")}
        return TimeExpertConfig(
            vision_config={**vision, **settings.vision.extra},
            text_config={
                **decoder,
                "vocab_size": text.vocab_size,
                "intermediate_size": settings.moe.expert_dim,
                "rope_parameters": rope,
                "pad_token_id": text.pad_id,
                "eos_token_id": text.eos_id,
                "bos_token_id": None,
            },
            moe=to_tree(settings.moe),
            compressor=settings.compressor,
            tokens_per_frame=settings.tokens_per_frame,
            projector_queries=settings.projector_queries,
            time_digits=settings.time_digits,
            score_digits=settings.score_digits,
            initializer_range=settings.initializer_range,
            attn_implementation=attention,
        )

    def new(self, config: TimeExpertConfig, settings: ModelConfig, text: TextTokenizer) -> TimeExpert:
        """As :class:`Family`; number embeddings start from those of the digits."""
        model = TimeExpert(config)
        model.embedding.initialise_numbers(text.digit_ids(), text.point_id())
        return model

    def tower(self, config: TimeExpertConfig) -> Tower:
        """As :class:`Family`."""
        vision = config.vision_config
        vision._attn_implementation = config._attn_implementation or "sdpa"  # as the whole model's
        return tower_of(AutoModel.from_config(vision))

    def differing(self, found: TimeExpertConfig, wanted: TimeExpertConfig) -> Iterator[str]:
        """As :class:`Family`."""
        yield from differences("vision.", VISION_SHAPES, found.vision_config, wanted.vision_config)
        yield from differences("decoder.", TEXT_SHAPES, found.text_config, wanted.text_config)
        yield from differences("moe.", MOE_SHAPES, found.moe_config, wanted.moe_config)
        yield from differences("", OWN_SHAPES, found, wanted)

    def is_matrix(self, name: str) -> bool:
        """Attention and shared experts of the decoder."""
        return name.startswith("decoder.") and "gate.weight" not in name

    def writer(self, config: TimeExpertConfig, text: TextTokenizer) -> EventWriter:
        """As :class:`Family`."""
        codec = EventCodec(text, config.time_format, config.score_format)
        return EventWriter(codec, text, config.tokens_per_frame)

    def answering(self, model: TimeExpert, text: TextTokenizer) -> EventAnswering:
        """As :class:`Family`."""
        return EventAnswering(model, text)


FAMILY = TimeExpertFamily()
