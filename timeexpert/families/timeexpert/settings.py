"""The settings of a TimeExpert: ``model:`` of a run's config where ``model.family`` is timeexpert."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from timeexpert.config import ConfigError, at_least, divisible
from timeexpert.families.base import ModelSettings
from timeexpert.families.language_settings import check_heads
from timeexpert.moe import MoEConfig
from timeexpert.tokenization import NumberFormat

# What a stage may train: prefixes of the model's parameter names (see docs/stages.md).
PREFIXES: dict[str, tuple[str, ...]] = {
    "vision_tower": ("frame_encoder.vision_tower",),
    "compression": ("frame_encoder.projector", "frame_encoder.compressor"),
    "number_encoders": ("embedding.sync", "embedding.time_encoder", "embedding.score_encoder"),
    "number_heads": ("heads.sync", "heads.time", "heads.score"),
    "text": ("embedding.text", "heads.text"),
    "decoder": ("decoder",),
}
TASK_MODULES = ("compression", "number_encoders", "number_heads")


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A transformers vision tower; ``extra`` goes to its config as it is."""

    model_type: str = "idefics3_vision"
    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    image_size: int = 490
    patch_size: int = 14
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "image_size", "patch_size")
        at_least(1, self, *sizes, "num_hidden_layers")
        divisible(self, "hidden_size", "num_attention_heads")
        if self.patch_size > self.image_size:
            raise ConfigError(f"patch_size ({self.patch_size}) is more than image_size ({self.image_size}).")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes of the MoE decoder (ARIA's by default)."""

    hidden_size: int = 2560
    num_hidden_layers: int = 28
    num_attention_heads: int = 20
    num_key_value_heads: int = 20
    rope_theta: float = 5e6
    max_position_embeddings: int = 65536

    def __post_init__(self) -> None:
        at_least(1, self, "hidden_size", "num_hidden_layers", "max_position_embeddings")
        check_heads(self)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ModelSettings):
    """Everything that shapes the weights."""

    # FACTS A8: stage 1 trains visual compression, time/score encoders and heads; stage 2 the MoE decoder; stage 3
    # everything but the vision tower. "backbone" is ours: it stands in for published weights where there are none.
    KINDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "backbone": tuple(PREFIXES),
        "task_modules": TASK_MODULES,
        "moe_pretraining": ("decoder",),
        "sft": (*TASK_MODULES, "text", "decoder"),
        "rl": (*TASK_MODULES, "text", "decoder"),
    }
    PARTS: ClassVar[tuple[str, ...]] = tuple(PREFIXES)

    family: Literal["timeexpert"] = "timeexpert"
    vision: VisionConfig = field(default_factory=VisionConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    moe: MoEConfig = field(default_factory=MoEConfig)
    compressor: Literal["vision", "projector", "queries"] = "projector"
    tokens_per_frame: int = 8
    projector_queries: dict[int, int] | None = None
    time_digits: tuple[int, int] = (4, 1)
    score_digits: tuple[int, int] = (1, 1)
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        at_least(1, self, "tokens_per_frame")
        if self.initializer_range <= 0:
            raise ConfigError(f"initializer_range ({self.initializer_range}) must be positive.")
        NumberFormat(*self.time_digits), NumberFormat(*self.score_digits)  # raise where digits cannot be
        patches = (self.vision.image_size // self.vision.patch_size) ** 2
        known = {1225: 128, 4900: 256} if self.projector_queries is None else self.projector_queries
        plain_tower = self.vision.model_type in ("idefics3_vision", "siglip_vision_model")  # no class token
        if self.compressor != "vision" and plain_tower and patches not in known:
            raise ConfigError(
                f"compressor ({self.compressor!r}) needs projector_queries for {patches} patches "
                f"((image_size / patch_size) squared); there are {', '.join(map(str, known)) or 'none'}. "
                f"Set projector_queries: {{{patches}: 8}}, or compressor: vision."
            )

    @property
    def frame_size(self) -> int:
        """As :class:`ModelSettings`."""
        return self.vision.image_size

    @property
    def has_experts(self) -> bool:
        """As :class:`ModelSettings`."""
        return True

    @property
    def expert_slots(self) -> int:
        """As :class:`ModelSettings`."""
        return self.moe.slots

    @property
    def shortest_answer(self) -> int:
        """<sync>, two times, the end of the scores, the end of the answer."""
        return 1 + 2 * (NumberFormat(*self.time_digits).width + 1) + 1 + 1

    @property
    def suspects(self) -> str:
        """As :class:`ModelSettings`."""
        vision = f"model.vision.model_type ({self.vision.model_type!r}), model.vision.extra"
        return f"{vision} and model.attention ({self.attention!r})"

    def most_frames(self, tokens: int, per_video: int) -> int:
        """As :class:`ModelSettings`."""
        return tokens // self.tokens_per_frame
