"""TimeExpertConfig: the transformers config of the model, from which weights are shaped."""

from __future__ import annotations

from typing import Any

from transformers import AriaTextConfig, AutoConfig, PretrainedConfig

from timeexpert.config import from_tree
from timeexpert.moe import MoEConfig
from timeexpert.tokenization import IdSpace, NumberFormat

PLACEMENTS = ("vision", "projector", "queries")


class TimeExpertConfig(PretrainedConfig):
    """Sizes of the vision tower, the compressor, the MoE decoder and the number formats.

    ``vision_config``: any transformers vision tower (ARIA: ``idefics3_vision``). ``text_config``: ARIA's text
    config; its ``vocab_size`` counts text pieces only. ``moe``: see :class:`timeexpert.moe.MoEConfig`.
    ``compressor``: where the 8 slots sit (``vision``: on the tower's output, instead of the projector, as
    TRACE; ``projector``: on the projector's output; ``queries``: no slots, the projector with 8 queries).
    ``projector_queries``: queries of ARIA's projector per number of patches.
    """

    model_type = "timeexpert"
    sub_configs = {"vision_config": AutoConfig, "text_config": AriaTextConfig}

    def __init__(
        self,
        vision_config: dict[str, Any] | PretrainedConfig | None = None,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        moe: dict[str, Any] | None = None,
        compressor: str = "projector",
        tokens_per_frame: int = 8,
        projector_queries: dict[int, int] | None = None,
        time_digits: tuple[int, int] | list[int] = (4, 1),
        score_digits: tuple[int, int] | list[int] = (1, 1),
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        if vision_config is None:
            vision_config = {"model_type": "idefics3_vision"}
        if isinstance(vision_config, dict):
            values = dict(vision_config)
            vision_config = AutoConfig.for_model(values.pop("model_type", "idefics3_vision"), **values)
        if text_config is None:
            text_config = {}
        if isinstance(text_config, dict):
            text_config = AriaTextConfig(**{k: v for k, v in text_config.items() if k != "model_type"})
        self.vision_config: Any = vision_config
        self.text_config: Any = text_config
        self.moe = dict(moe or {})
        if compressor not in PLACEMENTS:
            raise ValueError(f"compressor ({compressor!r}) must be one of {', '.join(PLACEMENTS)}.")
        self.compressor = compressor
        self.tokens_per_frame = tokens_per_frame
        queries = {1225: 128, 4900: 256} if projector_queries is None else projector_queries
        self.projector_queries = {int(k): int(v) for k, v in queries.items()}
        self.time_digits, self.score_digits = list(time_digits), list(score_digits)
        self.initializer_range = initializer_range
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            kwargs.setdefault(name, getattr(text_config, name, None))
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)

    @property
    def id_space(self) -> IdSpace:
        """Where text, sync, time, score, vision and frame-time ids lie."""
        return IdSpace(self.text_config.vocab_size)

    @property
    def vocab_size(self) -> int:
        """Number of ids that can be generated; what ``generate()`` sees as the vocabulary."""
        return self.id_space.output_size

    @property
    def moe_config(self) -> MoEConfig:
        """The MoE settings as a dataclass. Raises ``ConfigError`` for unknown names and impossible values."""
        return from_tree(MoEConfig, self.moe, "moe")

    @property
    def time_format(self) -> NumberFormat:
        return NumberFormat(*self.time_digits)

    @property
    def score_format(self) -> NumberFormat:
        return NumberFormat(*self.score_digits)
