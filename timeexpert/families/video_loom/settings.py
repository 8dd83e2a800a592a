"""The settings of a VideoLoom: ``model:`` of a run's config where ``model.family`` is video_loom.

The defaults are InternVL3-8B and SAM2.1 Hiera-L as their config.json files describe them, with the paper's tokens and
losses; docs/video-loom.md says which values are readings of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from timeexpert.config import ConfigError, at_least, divisible
from timeexpert.families.language_settings import LORA_TARGETS, LanguageSettings, LlmSizes, LoraUpdates

from .answer_forms import AnswerForms
from .frame_ids import EndOf

PARTS = ("vision_tower", "projector", "llm", "embeddings", "lora", "mask_projection", "mask_decoder", "sam")
Visual = Literal["slowfast", "slow", "fast", "per_task"]
Pooling = Literal["average", "subsample", "interpolate"]
PromptedFrames = Literal["keyframes", "all"]
TIMED = ("moment_retrieval", "dense_captioning", "highlight_detection", "action_segmentation")


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """InternViT-300M: 32 x 32 patches of 14 pixels, of which four each make one of 16 x 16 tokens."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    layer_scale: float = 0.1

    def __post_init__(self) -> None:
        at_least(1, self, "hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size")
        divisible(self, "hidden_size", "num_attention_heads")
        if self.image_size % (2 * self.patch_size):
            raise ConfigError(
                f"image_size ({self.image_size}) must be a multiple of twice patch_size ({self.patch_size}): two by "
                "two patches become one token."
            )

    @property
    def grid(self) -> int:
        """Tokens of a frame along one side."""
        return self.image_size // self.patch_size // 2


@dataclass(frozen=True, kw_only=True)
class LlmConfig(LlmSizes):
    """The language model of InternVL3-8B, which is Qwen2.5-7B's. ``model_type``: of transformers."""

    model_type: Literal["qwen2", "llama"] = "qwen2"
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32768


@dataclass(frozen=True, kw_only=True)
class SamConfig:
    """SAM2.1 with Hiera-L. Width and heads of the backbone double at each of its four stages.

    ``occlusion``: SAM2.1's embedding of frames without the object and the times of its object pointers; false for
    SAM2.0. ``multimask``: three masks are predicted and the one with the highest predicted IoU is taken.
    """

    image_size: int = 1024
    backbone_width: int = 144
    backbone_heads: int = 2
    blocks: tuple[int, ...] = (2, 6, 36, 4)
    windows: tuple[int, ...] = (8, 4, 16, 8)
    global_blocks: tuple[int, ...] = (23, 33, 43)
    position_size: int = 7
    hidden_size: int = 256
    decoder_heads: int = 8
    mlp_dim: int = 2048
    memory_layers: int = 4
    fuser_dim: int = 1024
    num_maskmem: int = 7
    occlusion: bool = True
    multimask: bool = True

    def __post_init__(self) -> None:
        at_least(1, self, "backbone_width", "backbone_heads", "position_size", "mlp_dim", "memory_layers", "fuser_dim")
        at_least(1, self, "num_maskmem")
        divisible(self, "backbone_width", "backbone_heads")
        divisible(self, "hidden_size", "decoder_heads")
        if self.image_size < 32 or self.image_size % 32:
            raise ConfigError(
                f"image_size ({self.image_size}) must be a multiple of 32: SAM2's backbone halves it 5 times."
            )
        if self.hidden_size < 64 or self.hidden_size % 64:
            raise ConfigError(
                f"hidden_size ({self.hidden_size}) must be a multiple of 64: memories are that wide in transformers' "
                "SAM2."
            )
        if len(self.blocks) != 4 or len(self.windows) != 4 or min(self.blocks) < 1:
            raise ConfigError(
                f"blocks ({list(self.blocks)}) and windows ({list(self.windows)}) need four numbers each."
            )


@dataclass(frozen=True, kw_only=True)
class LoraConfig(LoraUpdates):
    """Low-rank updates of the language model through PEFT (Sa2VA's values); ``rank`` 0: none."""

    rank: int = 256
    alpha: float = 512.0
    dropout: float = 0.05
    targets: tuple[str, ...] = LORA_TARGETS


@dataclass(frozen=True, kw_only=True)
class MaskLossConfig:
    """Loss of the masks: ``bce`` and ``dice`` are weights; both are means over pixels and masks.

    ``points``: they are taken at so many sampled points of each mask, ``importance`` of them where the prediction is
    least sure, out of ``oversample`` times as many (PointRend); None: at every pixel of the low-resolution mask.
    ``objectness``: weight of SAM2's score that a frame shows the object at all, 0 in the paper: the published score is
    trained, a new one is not.
    """

    bce: float = 1.0
    dice: float = 1.0
    points: int | None = 12544
    oversample: float = 3.0
    importance: float = 0.75
    objectness: float = 0.0

    def __post_init__(self) -> None:
        at_least(0, self, "bce", "dice", "objectness")
        at_least(1, self, "oversample")
        if self.points is not None:
            at_least(1, self, "points")
        if not 0 <= self.importance <= 1:
            raise ConfigError(f"importance ({self.importance}) must be between 0 and 1.")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(LanguageSettings):
    """Everything that shapes a VideoLoom.

    ``visual``: which tokens of a video are read: ``slowfast``; ``slow``, ``keyframes`` frames of grid x grid tokens;
    ``fast``, up to ``max_frames`` frames of grid/R x grid/R tokens, R being ``fast_pool``; ``per_task``, fast ones for
    questions about time and slow ones for the others. ``pooling``: how a fast frame's tokens become fewer: the
    ``average`` of R x R tokens, every R-th (``subsample``), or bilinear (``interpolate``). ``id_text``: what stands
    behind a fast frame's tokens. ``end_of``: see :class:`.frame_ids.FrameIds`. ``task_hints``: a question whose task is
    known ends in a sentence that says what its answer holds. ``answers``: their wordings.
    ``prompted_frames``: which frames the state of [SEG] prompts when masks are drawn: ``keyframes``, SAM2's memory
    reaching the others; ``all``, each by itself. ``max_objects``: of how many objects an answer has masks at most; they
    are held in memory together, and a model may write [SEG] without end.
    ``internvl``, ``sam2``: folders of published weights (safetensors) that a new model starts from.
    """

    PARTS: ClassVar[tuple[str, ...]] = PARTS
    # FACTS D2: LoRA, SAM2's mask decoder, the MLP, word embeddings and head; "joint_from_scratch" is for tiny models.
    KINDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "joint_tuning": ("lora", "embeddings", "mask_projection", "mask_decoder"),
        "joint_from_scratch": PARTS,
        "rl": ("lora", "embeddings"),
    }

    family: Literal["video_loom"] = "video_loom"
    vision: VisionConfig = field(default_factory=VisionConfig)
    llm: LlmConfig = field(default_factory=LlmConfig)
    sam: SamConfig = field(default_factory=SamConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    mask_loss: MaskLossConfig = field(default_factory=MaskLossConfig)
    visual: Visual = "slowfast"
    max_frames: int = 128
    keyframes: int = 5
    fast_pool: int = 4
    pooling: Pooling = "average"
    id_text: str = "This sampled frame id is {id}"
    end_of: EndOf = "frame"
    task_hints: bool = True
    prompted_frames: PromptedFrames = "keyframes"
    max_objects: int = 32
    answers: AnswerForms = field(default_factory=AnswerForms)
    internvl: str | None = None
    sam2: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "max_frames", "keyframes", "fast_pool", "max_objects")
        if self.vision.grid % self.fast_pool:
            raise ConfigError(
                f"fast_pool ({self.fast_pool}) does not divide the {self.vision.grid} tokens of a frame's side."
            )
        if self.id_text.replace("{{", "").replace("}}", "").count("{id}") != 1:
            raise ConfigError(f"id_text ({self.id_text!r}) must have one {{id}}, where the frame's number stands.")
        try:
            self.id_text.format(id=0)
        except (IndexError, KeyError, ValueError) as error:
            raise ConfigError(
                f"id_text ({self.id_text!r}) cannot be filled in: {error!r}. Write braces but those of {{id}} twice."
            ) from None

    @property
    def fast_tokens(self) -> int:
        """Tokens of one fast frame."""
        return (self.vision.grid // self.fast_pool) ** 2

    @property
    def slow_tokens(self) -> int:
        """Tokens of one keyframe."""
        return self.vision.grid**2

    @property
    def frame_size(self) -> int:
        """As :class:`ModelSettings`: the larger of what InternVL and SAM2 see."""
        return max(self.vision.image_size, self.sam.image_size)

    @property
    def shortest_answer(self) -> int:
        """Tokens of "It is [SEG]."; how many words a piece holds depends on the vocabulary."""
        return 4

    @property
    def suspects(self) -> str:
        """As :class:`ModelSettings`."""
        return f"the sizes under model.vision, model.llm and model.sam, and model.attention ({self.attention!r})"

    def most_frames(self, tokens: int, per_video: int) -> int:
        """As :class:`ModelSettings`: a row has at least the video's tokens."""
        of_video = {"slow": self.keyframes * self.slow_tokens, "fast": per_video * self.fast_tokens}
        of_video |= {"slowfast": sum(of_video.values()), "per_task": min(of_video.values())}
        return max(1, tokens // of_video[self.visual]) * per_video

    def check_stage(self, where: str, kind: str, trains: tuple[str, ...] | None, num_frames: tuple[int, ...]) -> None:
        """As :class:`ModelSettings`."""
        super().check_stage(where, kind, trains, num_frames)
        if kind == "rl" and self.visual == "slow":
            raise ConfigError(
                f"{where}.kind ('rl') rewards times, and with model.visual 'slow' the model sees no frame ids. Choose "
                "another value of model.visual."
            )

    def check_frames(self, where: str, num_frames: int) -> None:
        """As :class:`ModelSettings`."""
        if num_frames > self.max_frames:
            raise ConfigError(
                f"{where} ({num_frames}) is more than model.max_frames ({self.max_frames}). Lower it, or raise "
                "model.max_frames."
            )
