"""TemporalVLM as an entry of the registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel

from timeexpert.config import ConfigError, to_tree
from timeexpert.data.records import Sample
from timeexpert.families.base import Family, differences
from timeexpert.families.language_model import text_config
from timeexpert.model.tower import Tower
from timeexpert.tokenization.answer_lines import AnswerError, answer_lines
from timeexpert.tokenization.text import TextTokenizer

from .answering import TextAnswering
from .batch import STAMP, ClipWriter
from .config import TemporalVLMConfig
from .frame_encoder import make_tower, tower_of
from .model import TemporalVLM
from .settings import ModelConfig
from .weights import load_published

AutoConfig.register(TemporalVLMConfig.model_type, TemporalVLMConfig, exist_ok=True)
AutoModel.register(TemporalVLMConfig, TemporalVLM, exist_ok=True)

SHAPES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
VISION_SHAPES = (*SHAPES, "image_size", "patch_size")
QFORMER_SHAPES = (*SHAPES, "vocab_size", "cross_attention_frequency")
TEXT_SHAPES = (*SHAPES, "num_key_value_heads", "vocab_size")
# the number of clips comes first: it shapes nothing where the sequence is pooled
SAME = ("clips", "frames_per_clip", "window", "overlap", "video_queries", "num_queries", "fusion", "fusion_heads")
SWITCHES = ("fusion_residual", "clip_tokens", "clip_length", "aggregator", "sequence_projection", "llm_tokens")
STAMPS = ("timestamps", "slice_query_tokens", "mask_timestamp_padding", "partial_windows", "prompt_times")
OWN_SHAPES = (*SAME, *SWITCHES, *STAMPS, "stamp_tokenizer", "lora")
PREFIXES = {
    "frame_encoder.vision_model.": "vision_tower",
    "frame_encoder.": "frame_qformer",
    "clip_encoder.": "clip_encoder",
    "aggregator.": "aggregator",
    "projection.": "projection",
    "sequence_projection.": "projection",
    "llm.": "llm",
}


class TemporalVLMFamily(Family):
    """Clips, words, no experts."""

    config_class = TemporalVLMConfig
    model_class = TemporalVLM
    prefixes = PREFIXES
    tower_prefix = "frame_encoder.vision_model."
    matrices = ("llm.model.layers.", "frame_encoder.qformer.encoder.", "clip_encoder.qformer.encoder.")

    def config(self, settings: ModelConfig, text: TextTokenizer, attention: str) -> TemporalVLMConfig:
        """As :class:`Family`. Raises :class:`ConfigError` where ``qformer.tokenizer`` cannot be read."""
        stamp_tokenizer, words = _stamp_tokenizer(settings, text)
        qformer = {
            k: v for k, v in to_tree(settings.qformer).items() if k not in ("tokenizer", "num_queries", "dropout")
        }
        dropout = settings.qformer.dropout
        qformer |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        width, own = settings.qformer.hidden_size, {"initializer_range": settings.initializer_range}
        names = (*SAME, *SWITCHES, *STAMPS)
        return TemporalVLMConfig(
            vision_config={**to_tree(settings.vision), **own},
            qformer_config={**qformer, **own, "vocab_size": words, "encoder_hidden_size": settings.vision.hidden_size},
            video_config={
                **qformer,
                **own,
                "vocab_size": 1,
                "num_hidden_layers": settings.video_layers,
                "cross_attention_frequency": 1,
                "encoder_hidden_size": width,
            },
            text_config=text_config(settings.llm, text, settings.initializer_range),
            **{name: getattr(settings, name) for name in names if name != "num_queries"},
            num_queries=settings.qformer.num_queries,
            sequence=settings.sequence,
            stamp_tokenizer=stamp_tokenizer,
            lora=to_tree(settings.lora),
            initializer_range=settings.initializer_range,
            attn_implementation=attention,
        )

    def new(self, config: TemporalVLMConfig, settings: ModelConfig, text: TextTokenizer) -> TemporalVLM:
        """As :class:`Family`; published weights of ``settings.instructblip`` and ``settings.llama`` are filled in."""
        model = TemporalVLM(config)
        load_published(model, settings.instructblip, settings.llama)
        return model

    def tower(self, config: TemporalVLMConfig) -> Tower:
        """As :class:`Family`."""
        return tower_of(make_tower(config))

    def differing(self, found: TemporalVLMConfig, wanted: TemporalVLMConfig) -> Iterator[str]:
        """As :class:`Family`."""
        yield from differences("vision.", VISION_SHAPES, found.vision_config, wanted.vision_config)
        yield from differences("qformer.", QFORMER_SHAPES, found.qformer_config, wanted.qformer_config)
        yield from differences("video ", SHAPES, found.video_config, wanted.video_config)
        yield from differences("llm.", TEXT_SHAPES, found.text_config, wanted.text_config)
        any_clips = found.sequence_projection == wanted.sequence_projection == "pool"
        yield from differences("", OWN_SHAPES[1:] if any_clips else OWN_SHAPES, found, wanted)

    def writer(self, config: TemporalVLMConfig, text: TextTokenizer) -> ClipWriter:
        """As :class:`Family`."""
        return ClipWriter.of(config, text)

    def answering(self, model: TemporalVLM, text: TextTokenizer) -> TextAnswering:
        """As :class:`Family`."""
        return TextAnswering(model, text)

    def texts(self, sample: Sample, settings: Any) -> list[str]:
        """Prompt and answer as they are written, and the sentence with the time."""
        try:
            written = answer_lines(sample.task, sample.events)
        except AnswerError:  # named when the sample is drawn
            written = ""
        return [text for text in (sample.prompt, written, STAMP.format(0.0)) if text]


def _stamp_tokenizer(settings: ModelConfig, text: TextTokenizer) -> tuple[str | None, int]:
    """The frame Q-Former's own tokenizer as JSON, if it has one, and the size of its table of words."""
    folder = settings.qformer.tokenizer
    if folder is None:
        return None, text.vocab_size
    from tokenizers import Tokenizer

    path = Path(folder) / "tokenizer.json"
    try:
        own: Any = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise ConfigError(
            f"model.qformer.tokenizer ({folder}): {path} cannot be read: {error}. Give the folder qformer_tokenizer of "
            "an InstructBLIP, or leave it out for the language model's tokenizer."
        ) from None
    return own.to_str(), own.get_vocab_size(with_added_tokens=True)


FAMILY = TemporalVLMFamily()
