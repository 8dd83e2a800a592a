"""VideoLoomConfig: the transformers config of the model, from which weights are shaped."""

from __future__ import annotations

from typing import Any

from transformers import InternVLConfig, PretrainedConfig, Sam2VideoConfig

from .settings import EndOf, Pooling, PromptedFrames, Visual


class VideoLoomConfig(PretrainedConfig):
    """InternVL, SAM2, and the switches of :class:`.settings.ModelConfig` by the same names.

    ``grid``: tokens of a keyframe along one side. ``answers``: :class:`.answer_forms.AnswerForms` as a mapping.
    """

    model_type = "video_loom"
    sub_configs = {"mllm_config": InternVLConfig, "sam_config": Sam2VideoConfig}

    def __init__(
        self,
        mllm_config: dict[str, Any] | PretrainedConfig | None = None,
        sam_config: dict[str, Any] | PretrainedConfig | None = None,
        lora: dict[str, Any] | None = None,
        mask_loss: dict[str, Any] | None = None,
        multimask: bool = True,
        visual: Visual = "slowfast",
        max_frames: int = 128,
        keyframes: int = 5,
        grid: int = 16,
        fast_pool: int = 4,
        pooling: Pooling = "average",
        id_text: str = "This sampled frame id is {id}",
        end_of: EndOf = "frame",
        task_hints: bool = True,
        prompted_frames: PromptedFrames = "keyframes",
        max_objects: int = 32,
        answers: dict[str, str] | None = None,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        for name, value in (("mllm_config", mllm_config), ("sam_config", sam_config)):
            if not isinstance(value, PretrainedConfig):
                value = self.sub_configs[name](**{k: v for k, v in (value or {}).items() if k != "model_type"})
            setattr(self, name, value)
        self.lora, self.mask_loss, self.multimask = dict(lora or {}), dict(mask_loss or {}), multimask
        self.visual, self.max_frames, self.keyframes = visual, max_frames, keyframes
        self.grid, self.fast_pool, self.pooling = grid, fast_pool, pooling
        self.id_text, self.end_of, self.task_hints = id_text, end_of, task_hints
        self.prompted_frames, self.max_objects, self.answers = prompted_frames, max_objects, dict(answers or {})
        self.initializer_range = initializer_range
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            kwargs.setdefault(name, getattr(self.text_config, name, None))
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)

    @property
    def text_config(self) -> Any:
        """Of the language model."""
        return self.mllm_config.text_config

    @property
    def slow_tokens(self) -> int:
        """Tokens of one keyframe."""
        return self.grid**2

    @property
    def fast_tokens(self) -> int:
        """Tokens of one fast frame."""
        return (self.grid // self.fast_pool) ** 2

    @property
    def seg_token_id(self) -> int:
        """[SEG]: the first id behind the text vocabulary."""
        return int(self.text_config.vocab_size)

    @property
    def fast_token_id(self) -> int:
        """The placeholder of one token of a fast frame."""
        return self.seg_token_id + 1

    @property
    def slow_token_id(self) -> int:
        """The placeholder of one token of a keyframe."""
        return self.seg_token_id + 2
