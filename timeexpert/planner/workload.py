"""What one GPU computes at a time: sizes of the model's tensors, and of one micro-batch."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from timeexpert.families.timeexpert.settings import ModelConfig
from timeexpert.model import TimeExpert
from timeexpert.stages.config import RunConfig, StageConfig

from .hardware import PlanError

TEXT_TOKENS = 256  # of a question and its answer: what the paper's 2048 tokens leave beside 128 frames


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Sizes that shape activations. Vision: ``patches`` of a frame, ``queries`` of the projector (0 without one),
    ``slots`` (tokens of a frame), ``slotted`` whether the slot compressor is there. ``vocabulary``: text pieces and
    <sync>. ``router``, ``fallback``...: see ``MoEConfig``."""

    image_size: int
    patch_size: int
    patches: int
    vision_dim: int
    vision_mlp: int
    vision_layers: int
    vision_heads: int
    queries: int
    slots: int
    slotted: bool
    dim: int
    layers: int
    heads: int
    kv_heads: int
    experts: int
    expert_dim: int
    shared_dim: int
    top_k: int
    topany: bool
    vocabulary: int

    @classmethod
    def of(cls, config: RunConfig, model: TimeExpert) -> Dimensions:
        """Of a run's model."""
        assert isinstance(config.model, ModelConfig)
        vision, text, moe = model.config.vision_config, model.config.text_config, model.config.moe_config
        patches = (vision.image_size // vision.patch_size) ** 2
        queries = {"vision": 0, "projector": model.config.projector_queries.get(patches, 0)}
        return cls(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            patches=patches,
            vision_dim=vision.hidden_size,
            vision_mlp=vision.intermediate_size,
            vision_layers=vision.num_hidden_layers,
            vision_heads=vision.num_attention_heads,
            queries=queries.get(config.model.compressor, config.model.tokens_per_frame),
            slots=config.model.tokens_per_frame,
            slotted=config.model.compressor != "queries",
            dim=text.hidden_size,
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            experts=moe.slots,
            expert_dim=moe.expert_dim,
            shared_dim=moe.num_shared_experts * moe.expert_dim,
            top_k=moe.top_k,
            topany=moe.router == "topany",
            vocabulary=text.vocab_size + 1,
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch: ``videos`` rows of ``row_tokens`` with ``frames`` each; ``labels``: tokens of a row that the
    heads predict, the mean. ``experts_per_token``: the mean. ``masked``: attention takes a mask, for padding or packed
    questions."""

    videos: int
    frames: float
    row_tokens: int
    labels: float
    experts_per_token: float
    masked: bool = False

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return self.videos * self.row_tokens

    @property
    def num_frames(self) -> float:
        """Of all rows."""
        return self.videos * self.frames

    @property
    def pairs(self) -> float:
        """Routed (token, expert) pairs of a layer."""
        return self.tokens * self.experts_per_token


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A stage's rows, before it is known how many are computed together.

    ``typical`` and ``longest``: tokens of a row, for times and for memory. ``frames``, ``most_frames``: of a video.
    """

    frames: float
    most_frames: int
    typical: int
    longest: int
    video_tokens: int
    experts_per_token: float
    packed: bool
    attention: str

    def batch(self, videos: int, longest: bool = False) -> Batch:
        """``videos`` typical rows, or as many of the longest. All text of a row counts as answer."""
        tokens = self.longest if longest else self.typical
        frames = self.most_frames if longest else self.frames
        labels = max(1, tokens - self.video_tokens)
        return Batch(
            videos=videos,
            frames=frames,
            row_tokens=tokens,
            labels=labels,
            experts_per_token=self.experts_per_token,
            masked=self.packed or (videos > 1 and not self.attention.startswith("flash")),
        )


def stage_rows(
    config: RunConfig,
    stage: StageConfig,
    row_tokens: int | None = None,
    text_tokens: int = TEXT_TOKENS,
    experts_per_token: float | None = None,
) -> Rows:
    """The rows of a stage. ``row_tokens`` says how long all of them are; otherwise a typical row has its frames and
    ``text_tokens`` per question, and the longest one has ``max_tokens``. Raises :class:`PlanError`."""
    assert isinstance(config.model, ModelConfig)
    digits = config.model.time_digits
    per_frame = config.model.tokens_per_frame + digits[0] + 1 + digits[1]
    frames = mean(stage.num_frames)
    video = round(frames * per_frame)
    slots, k = config.model.moe.slots, experts_per_token or float(config.model.moe.top_k)
    if not 0 < k <= slots:
        raise PlanError(f"--experts-per-token ({k:g}) must be more than 0 and at most {slots}, the expert slots.")
    if text_tokens < 1 or (row_tokens is not None and row_tokens < 1):
        raise PlanError("--text-tokens and --row-tokens must be 1 or more.")
    if row_tokens is None:
        typical = min(stage.max_tokens, video + text_tokens * stage.questions_per_video)
        longest = stage.max_tokens
    else:
        typical = longest = row_tokens
    if video >= longest:
        raise PlanError(
            f"stage {stage.name!r}: {frames:g} frames take {video} tokens, which leaves no room for a question in "
            f"{longest}. Raise stages.{stage.name}.max_tokens (or --row-tokens), or lower num_frames."
        )
    return Rows(
        frames=frames,
        most_frames=max(stage.num_frames),
        typical=typical,
        longest=longest,
        video_tokens=video,
        experts_per_token=k,
        packed=stage.questions_per_video > 1,
        attention=config.model.attention,
    )


def videos_per_batch(stage: StageConfig, rows: Rows) -> int:
    """Rows of one batch as the stage says it: ``batch_videos``, or what fits into ``batch_tokens``, at least one."""
    fitting = max(1, (stage.batch_tokens or 0) // rows.typical) if stage.batch_tokens is not None else None
    return min(n for n in (stage.batch_videos, fitting) if n is not None)
