"""The model of a run: made from its settings, or started from weights that fit them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timeexpert.checkpoint import MANIFEST, verify
from timeexpert.config import ConfigError, to_tree
from timeexpert.model import TimeExpert, TimeExpertConfig
from timeexpert.predict import load_model
from timeexpert.tokenization.text import TextTokenizer

from .config import RunConfig

# What weights are shaped by, and how frames become tokens: these must agree with the folder that a run starts from.
VISION_SHAPES = ("model_type", "hidden_size", "num_hidden_layers", "image_size", "patch_size")
TEXT_SHAPES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
MOE_SHAPES = ("router", "num_experts", "max_experts", "expert_dim", "num_shared_experts")
OWN_SHAPES = ("compressor", "tokens_per_frame", "time_digits", "score_digits")


def model_config(config: RunConfig, text: TextTokenizer) -> TimeExpertConfig:
    """The transformers config that a run's model settings describe."""
    model = config.model
    vision = {k: v for k, v in to_tree(model.vision).items() if k != "extra"}
    decoder = to_tree(model.decoder)
    rope = {"rope_type": "default", "rope_theta": decoder.pop("rope_theta")}
    attention = model.attention
    if attention == "auto":
        from transformers.utils import is_flash_attn_2_available

        packs = any(
            stage.questions_per_video > 1 or stage.rl for stage in config.stages
        )  # flash-attn takes no packing mask
        attention = "flash_attention_2" if is_flash_attn_2_available() and not packs else "sdpa"
    return TimeExpertConfig(
        vision_config={**vision, **model.vision.extra},
        text_config={
            **decoder,
            "vocab_size": text.vocab_size,
            "intermediate_size": model.moe.expert_dim,
            "rope_parameters": rope,
            "pad_token_id": text.pad_id,
            "eos_token_id": text.eos_id,
            "bos_token_id": None,
        },
        moe=to_tree(model.moe),
        compressor=model.compressor,
        tokens_per_frame=model.tokens_per_frame,
        projector_queries=model.projector_queries,
        time_digits=model.time_digits,
        score_digits=model.score_digits,
        initializer_range=model.initializer_range,
        attn_implementation=attention,
    )


def build_model(config: RunConfig, text: TextTokenizer) -> TimeExpert:
    """A new model in float32, or the one of ``model.pretrained`` with this run's MoE settings.

    Raises :class:`ConfigError` where the folder is none or its shapes are not those of ``model``.
    """
    wanted = model_config(config, text)
    pretrained = config.model.pretrained
    if pretrained is None:
        model = TimeExpert(wanted)
        model.embedding.initialise_numbers(text.digit_ids(), text.point_id())
        return model
    folder = Path(pretrained)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model.pretrained ({pretrained}): no config.json there. Give the folder of a model.")
    if (folder / MANIFEST).is_file():
        verify(folder)
    found = TimeExpertConfig.from_pretrained(folder, local_files_only=True)
    if found.text_config.vocab_size != text.vocab_size:
        raise ConfigError(
            f"model.pretrained ({pretrained}) has {found.text_config.vocab_size} text pieces, the tokenizer has "
            f"{text.vocab_size}. Set text.tokenizer to the tokenizer of these weights."
        )
    differing = list(_differing(found, wanted))
    if differing:
        raise ConfigError(
            f"model.pretrained ({pretrained}) has other shapes than model: {'; '.join(differing)}. "
            "Set model to the folder's values, or convert the weights with the wanted ones."
        )
    # float32 masters: in bfloat16 a step of the usual size would round to nothing
    return load_model(folder, wanted).float()


def _differing(found: TimeExpertConfig, wanted: TimeExpertConfig) -> Iterator[str]:
    def compare(section: str, names: tuple[str, ...], a: Any, b: Any) -> Iterator[str]:
        for name in names:
            old, new = getattr(a, name, None), getattr(b, name, None)
            if old != new:
                yield f"{section}{name} is {old!r} there, {new!r} here"

    yield from compare("vision.", VISION_SHAPES, found.vision_config, wanted.vision_config)
    yield from compare("decoder.", TEXT_SHAPES, found.text_config, wanted.text_config)
    yield from compare("moe.", MOE_SHAPES, found.moe_config, wanted.moe_config)
    yield from compare("", OWN_SHAPES, found, wanted)
