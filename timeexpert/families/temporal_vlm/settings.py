"""The settings of a TemporalVLM: ``model:`` of a run's config where ``model.family`` is temporal_vlm.

The defaults are the paper's (Table 7, sections 3.1 and 3.2) and, where it is silent or contradicts itself, the reading
that docs/temporal-vlm.md recommends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from timeexpert.config import ConfigError, at_least, divisible
from timeexpert.families.language_settings import LanguageSettings, LlmSizes, LoraUpdates, check_dropout

from .windows import ClipTokens, Partial, tokens_of, window_starts

PARTS = ("vision_tower", "frame_qformer", "clip_encoder", "aggregator", "projection", "llm", "lora")
Aggregator = Literal["bilstm", "lstm1", "lstm2", "transformer", "linear", "average_pool", "local_and_pooled", "none"]


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """EVA ViT-g/14 as InstructBLIP has it: 257 tokens of 1408 per frame."""

    hidden_size: int = 1408
    intermediate_size: int = 6144
    num_hidden_layers: int = 39
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14

    def __post_init__(self) -> None:
        at_least(1, self, "hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size")
        divisible(self, "hidden_size", "num_attention_heads")
        if self.patch_size > self.image_size:
            raise ConfigError(f"patch_size ({self.patch_size}) is more than image_size ({self.image_size}).")


@dataclass(frozen=True, kw_only=True)
class QFormerConfig:
    """The Q-Former that reads one frame (InstructBLIP's) and, with its width, the one that reads windows.

    ``tokenizer``: a folder with the tokenizer.json of InstructBLIP's Q-Former, which the sentence with the time is
    written in; None: the language model's, as TimeChat, for which the table of words is new.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_queries: int = 32
    cross_attention_frequency: int = 2
    dropout: float = 0.1
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        at_least(1, self, "hidden_size", "intermediate_size", "num_hidden_layers", "num_queries")
        at_least(1, self, "cross_attention_frequency")
        divisible(self, "hidden_size", "num_attention_heads")
        check_dropout(self)


@dataclass(frozen=True, kw_only=True)
class LlamaSizes(LlmSizes):
    """The language model: LLaMA-2-7B's sizes."""

    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    rope_theta: float = 1e4
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096


@dataclass(frozen=True, kw_only=True)
class LoraConfig(LoraUpdates):
    """Low-rank updates of the language model's attention through PEFT (TimeChat's values); ``rank`` 0: none."""

    rank: int = 32
    alpha: float = 32.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(LanguageSettings):
    """Everything that shapes a TemporalVLM and the baselines that are made of its parts.

    ``clips`` of at most ``frames_per_clip`` frames; ``window`` and ``overlap`` of the video Q-Former, in frames;
    ``fusion``: self-attention over a clip's window tokens, of ``fusion_heads`` heads; ``fusion_residual``: before a
    norm and beside a residual, which the equations do not have. ``clip_tokens``: how a clip's window tokens become its
    part of the sequence: ``pool`` (adaptive averages, ``tokens_per_clip`` of them), ``all``, ``non_overlapping`` (of
    the windows that do not overlap), ``overlap_add`` (means where windows overlap). ``aggregator``: what runs over all
    clips. ``sequence_projection``: how its output becomes ``llm_tokens`` tokens: ``linear`` over the sequence axis,
    ``pool`` (any number of clips), ``none`` where it has as many.
    ``timestamps``: frames are read beside "This frame is sampled at t second."; ``slice_query_tokens``: only the query
    tokens of a frame go on, not those of its sentence; ``mask_timestamp_padding``: the sentence's padding is no key of
    the video Q-Former, where the sentence goes on; ``partial_windows``: see :func:`.windows.window_starts`;
    ``prompt_times``: the prompt says from when to when each clip goes.
    ``instructblip``, ``llama``: folders of published weights (safetensors) that a new model starts from.
    """

    PARTS: ClassVar[tuple[str, ...]] = PARTS
    # The paper, section 5: image encoder and language model frozen, LoRA; "from_scratch" is ours, for tiny models.
    KINDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "instruction_tuning": ("frame_qformer", "clip_encoder", "aggregator", "projection", "lora"),
        "from_scratch": PARTS,
        "rl": ("frame_qformer", "clip_encoder", "aggregator", "projection", "lora"),
    }

    family: Literal["temporal_vlm"] = "temporal_vlm"
    vision: VisionConfig = field(default_factory=VisionConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    llm: LlamaSizes = field(default_factory=LlamaSizes)
    lora: LoraConfig = field(default_factory=LoraConfig)
    clips: int = 6
    frames_per_clip: int = 96
    window: int = 32
    overlap: int = 16
    video_layers: int = 2
    video_queries: int = 32
    fusion: bool = True
    fusion_heads: int = 8
    fusion_residual: bool = False
    clip_tokens: ClipTokens = "pool"
    tokens_per_clip: int = 96
    aggregator: Aggregator = "bilstm"
    sequence_projection: Literal["linear", "pool", "none"] = "linear"
    llm_tokens: int = 96
    timestamps: bool = True
    slice_query_tokens: bool = True
    mask_timestamp_padding: bool = True
    partial_windows: Partial = "last"
    prompt_times: Literal["none", "clips"] = "none"
    instructblip: str | None = None
    llama: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "clips", "frames_per_clip", "window", "video_layers", "video_queries", "tokens_per_clip")
        at_least(1, self, "llm_tokens", "fusion_heads")
        at_least(0, self, "overlap")
        if self.overlap >= self.window:
            raise ConfigError(
                f"overlap ({self.overlap}) must be less than window ({self.window}), both in frames: each window "
                "starts window - overlap frames after the one before."
            )
        heads = {"fusion": self.fusion, "aggregator": self.aggregator == "transformer"}
        if any(heads.values()) and self.qformer.hidden_size % self.fusion_heads:
            raise ConfigError(
                f"fusion_heads ({self.fusion_heads}) does not divide qformer.hidden_size ({self.qformer.hidden_size})."
            )
        if self.clip_tokens == "overlap_add" and self.window % self.video_queries and self.video_queries % self.window:
            raise ConfigError(
                f"clip_tokens overlap_add needs window ({self.window}) to be a multiple of video_queries "
                f"({self.video_queries}), or the other way round: tokens are laid over frames evenly."
            )
        if self.clip_tokens == "non_overlapping" and self.window % (self.window - self.overlap):
            raise ConfigError(
                f"clip_tokens non_overlapping needs windows that meet: window ({self.window}) must be a multiple of "
                f"the step between windows ({self.window - self.overlap}), or frames would be left out."
            )
        if self.sequence_projection == "none" and (self.sequence != self.llm_tokens or self.clip_tokens != "pool"):
            raise ConfigError(
                f"sequence_projection none needs clip_tokens pool and as many tokens behind the aggregator "
                f"({self.sequence}) as llm_tokens ({self.llm_tokens}). Set llm_tokens to {self.sequence}, or "
                "sequence_projection to linear or pool."
            )

    @property
    def clip_length(self) -> int:
        """Tokens of a clip of ``frames_per_clip`` frames."""
        starts = window_starts(self.frames_per_clip, self.window, self.overlap, self.partial_windows)
        return tokens_of(starts, self.window, self.video_queries, self.clip_tokens, self.tokens_per_clip)

    @property
    def sequence(self) -> int:
        """Tokens behind the aggregator, of a video with all its clips."""
        return self.clip_length * (1 if self.aggregator == "average_pool" else self.clips)

    @property
    def frame_size(self) -> int:
        """As :class:`ModelSettings`."""
        return self.vision.image_size

    @property
    def answers_in_words(self) -> bool:
        """As :class:`ModelSettings`."""
        return True

    @property
    def shortest_answer(self) -> int:
        """A word or two with two times; how many tokens that takes depends on the vocabulary."""
        return 8

    @property
    def suspects(self) -> str:
        """As :class:`ModelSettings`."""
        return f"the sizes under model.vision, model.qformer and model.llm, and model.attention ({self.attention!r})"

    def most_frames(self, tokens: int, per_video: int) -> int:
        """As :class:`ModelSettings`: a row has at least the video's tokens."""
        return max(1, tokens // self.llm_tokens) * per_video

    def check_frames(self, where: str, num_frames: int) -> None:
        """As :class:`ModelSettings`: there are so many frame positions."""
        most = self.clips * self.frames_per_clip
        if num_frames > most:
            raise ConfigError(
                f"{where} ({num_frames}) is more than model.clips ({self.clips}) of model.frames_per_clip "
                f"({self.frames_per_clip}) hold: {most}. Lower it, or raise model.frames_per_clip."
            )
