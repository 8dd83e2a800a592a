"""The model of a run: made from its settings, or started from weights that fit them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timeexpert.checkpoint import MANIFEST, verify
from timeexpert.config import ConfigError
from timeexpert.families import family, family_in
from timeexpert.predict import load_model
from timeexpert.tokenization.text import TextTokenizer

from .config import RunConfig


def model_config(config: RunConfig, text: TextTokenizer) -> Any:
    """The transformers config that a run's model settings describe."""
    attention = config.model.attention
    if attention == "auto":
        from transformers.utils import is_flash_attn_2_available

        packs = any(
            stage.questions_per_video > 1 or stage.rl for stage in config.stages
        )  # flash-attn takes no packing mask
        attention = "flash_attention_2" if is_flash_attn_2_available() and not packs else "sdpa"
    return family(config.model.family).config(config.model, text, attention)


def build_model(config: RunConfig, text: TextTokenizer) -> Any:
    """A new model in float32, or the one of ``model.pretrained`` with this run's settings.

    Raises :class:`ConfigError` where the folder is none or its shapes are not those of ``model``.
    """
    wanted, chosen = model_config(config, text), family(config.model.family)
    pretrained = config.model.pretrained
    if pretrained is None:
        return chosen.new(wanted, config.model, text)
    folder = Path(pretrained)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model.pretrained ({pretrained}): no config.json there. Give the folder of a model.")
    if (folder / MANIFEST).is_file():
        verify(folder)
    if family_in(folder) is not chosen:
        raise ConfigError(
            f"model.pretrained ({pretrained}) is not of model.family ({config.model.family!r}). Set model.family to "
            "the folder's model_type, or give another folder."
        )
    found = chosen.config_class.from_pretrained(folder, local_files_only=True)
    if found.text_config.vocab_size != text.vocab_size:
        raise ConfigError(
            f"model.pretrained ({pretrained}) has {found.text_config.vocab_size} text pieces, the tokenizer has "
            f"{text.vocab_size}. Set text.tokenizer to the tokenizer of these weights."
        )
    differing = list(chosen.differing(found, wanted))
    if differing:
        raise ConfigError(
            f"model.pretrained ({pretrained}) has other shapes than model: {'; '.join(differing)}. "
            "Set model to the folder's values, or convert the weights with the wanted ones."
        )
    # float32 masters: in bfloat16 a step of the usual size would round to nothing
    return load_model(folder, wanted).float()
