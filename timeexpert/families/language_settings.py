"""Settings that families around a language model of transformers share: its sizes, LoRA, and their checks."""

from __future__ import annotations

from dataclasses import dataclass, fields

from timeexpert.config import ConfigError, at_least, divisible
from timeexpert.families.base import ModelSettings

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class LlmSizes:
    """Sizes of the language model, by transformers' names; a family gives the defaults."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rope_theta: float
    rms_norm_eps: float
    max_position_embeddings: int

    def __post_init__(self) -> None:
        at_least(1, self, "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings")
        check_heads(self)


@dataclass(frozen=True, kw_only=True)
class LoraUpdates:
    """Low-rank updates of the language model through PEFT; ``rank`` 0: none. A family gives the defaults."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        at_least(0, self, "rank")
        check_dropout(self)
        for name in self.targets:
            if name not in LORA_TARGETS:
                raise ConfigError(f"targets: {name!r} is not one of {', '.join(LORA_TARGETS)}.")


@dataclass(frozen=True, kw_only=True)
class LanguageSettings(ModelSettings):
    """``model:`` of a family whose answers a language model of transformers writes."""

    llm: LlmSizes
    lora: LoraUpdates
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.initializer_range <= 0:
            raise ConfigError(f"initializer_range ({self.initializer_range}) must be positive.")

    def check_stage(self, where: str, kind: str, trains: tuple[str, ...] | None, num_frames: tuple[int, ...]) -> None:
        """As :class:`ModelSettings`, and no LoRA where there is none."""
        super().check_stage(where, kind, trains, num_frames)
        if "lora" in (trains or ()) and not self.lora.rank:
            usual = next(f.default for f in fields(self.lora) if f.name == "rank")
            raise ConfigError(f"{where}.trains names lora, and model.lora.rank is 0. Set model.lora.rank to {usual}.")


def check_heads(config: object) -> None:
    """Raises :class:`ConfigError` for a width, attention heads and key-value heads that do not go together."""
    at_least(1, config, "num_attention_heads", "num_key_value_heads")
    divisible(config, "hidden_size", "num_attention_heads")
    divisible(config, "num_attention_heads", "num_key_value_heads")
    width = config.hidden_size // config.num_attention_heads  # type: ignore[attr-defined]
    if width % 2:
        raise ConfigError(f"hidden_size / num_attention_heads ({width}) must be even: rotary embeddings turn pairs.")


def check_dropout(config: object) -> None:
    """Raises :class:`ConfigError` for a ``dropout`` below 0, or of 1 and more."""
    dropout = config.dropout  # type: ignore[attr-defined]
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout ({dropout}) must be 0 or more and less than 1.")
