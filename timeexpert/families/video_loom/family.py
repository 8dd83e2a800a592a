"""VideoLoom as an entry of the registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import AutoConfig, AutoModel

from timeexpert.config import to_tree
from timeexpert.data.records import Sample
from timeexpert.families.base import Family, differences
from timeexpert.families.language_model import text_config
from timeexpert.tokenization.answer_lines import AnswerError
from timeexpert.tokenization.text import TextTokenizer

from .answer_text import write_answer
from .answering import LoomAnswering
from .batch import LoomWriter, hinted
from .config import VideoLoomConfig
from .frame_ids import FrameIds
from .model import VideoLoom
from .settings import ModelConfig, SamConfig
from .weights import load_published

AutoConfig.register(VideoLoomConfig.model_type, VideoLoomConfig, exist_ok=True)
AutoModel.register(VideoLoomConfig, VideoLoom, exist_ok=True)

SHAPES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
VISION_SHAPES = (*SHAPES, "image_size", "patch_size")
TEXT_SHAPES = ("model_type", *SHAPES, "num_key_value_heads", "vocab_size")
SAM_SHAPES = ("image_size", "memory_attention_hidden_size", "memory_attention_num_layers", "num_maskmem")
SWITCHES = ("visual", "max_frames", "keyframes", "fast_pool", "pooling", "id_text", "end_of", "task_hints")
OWN_SHAPES = (*SWITCHES, "multimask", "lora")
PREFIXES = {
    "mllm.model.vision_tower.": "vision_tower",
    "mllm.model.multi_modal_projector.": "projector",
    "mllm.model.language_model.embed_tokens.": "embeddings",
    "mllm.lm_head.": "embeddings",
    "seg_": "embeddings",
    "mllm.model.language_model.": "llm",
    "mask_head.projection.": "mask_projection",
    "mask_head.sam.mask_decoder.": "mask_decoder",
    "mask_head.sam.": "sam",
}


class VideoLoomFamily(Family):
    """Frame ids, words, masks; no experts."""

    draws_masks = True
    config_class = VideoLoomConfig
    model_class = VideoLoom
    prefixes = PREFIXES
    matrices = (
        "mllm.model.language_model.layers.",
        "mllm.model.vision_tower.encoder.layer.",
        "mask_head.projection.",
        *(
            f"mask_head.sam.{layers}."
            for layers in (
                "vision_encoder.backbone.blocks",
                "mask_decoder.transformer",
                "mask_decoder.output_hypernetworks_mlps",
                "mask_decoder.iou_prediction_head",
                "mask_decoder.pred_obj_score_head",
                "memory_attention.layers",
                "memory_encoder.memory_fuser",
                "object_pointer_proj",
                "temporal_positional_encoding_projection_layer",
            )
        ),
    )

    def config(self, settings: ModelConfig, text: TextTokenizer, attention: str) -> VideoLoomConfig:
        """As :class:`Family`."""
        own = {"initializer_range": settings.initializer_range}
        vision = to_tree(settings.vision)
        vision["layer_scale_init_value"] = vision.pop("layer_scale")
        names = (*SWITCHES, "prompted_frames", "max_objects")
        return VideoLoomConfig(
            mllm_config={
                "vision_config": {**vision, **own, "model_type": "internvl_vision", "attention_bias": True},
                "text_config": text_config(settings.llm, text, settings.initializer_range),
                "image_token_id": text.vocab_size + 2,
                "image_seq_length": settings.slow_tokens,
                "tie_word_embeddings": False,
                **own,
            },
            sam_config=sam_config(settings.sam, settings.initializer_range),
            lora=to_tree(settings.lora),
            mask_loss=to_tree(settings.mask_loss),
            answers=to_tree(settings.answers),
            multimask=settings.sam.multimask,
            grid=settings.vision.grid,
            **{name: getattr(settings, name) for name in names},
            initializer_range=settings.initializer_range,
            attn_implementation=attention,
        )

    def new(self, config: VideoLoomConfig, settings: ModelConfig, text: TextTokenizer) -> VideoLoom:
        """As :class:`Family`; published weights of ``settings.internvl`` and ``settings.sam2`` are filled in."""
        model = VideoLoom(config)
        load_published(model, settings.internvl, settings.sam2)
        return model

    def differing(self, found: VideoLoomConfig, wanted: VideoLoomConfig) -> Iterator[str]:
        """As :class:`Family`."""
        ours, theirs = wanted.mllm_config, found.mllm_config
        yield from differences("vision.", VISION_SHAPES, theirs.vision_config, ours.vision_config)
        yield from differences("llm.", TEXT_SHAPES, found.text_config, wanted.text_config)
        yield from differences("sam.", SAM_SHAPES, found.sam_config, wanted.sam_config)
        backbones = (c.sam_config.vision_config.backbone_config for c in (found, wanted))
        yield from differences("sam backbone ", ("hidden_size", "blocks_per_stage"), *backbones)
        yield from differences("", OWN_SHAPES, found, wanted)

    def writer(self, config: VideoLoomConfig, text: TextTokenizer) -> LoomWriter:
        """As :class:`Family`."""
        return LoomWriter.of(config, text)

    def answering(self, model: VideoLoom, text: TextTokenizer) -> LoomAnswering:
        """As :class:`Family`."""
        return LoomAnswering(model, text)

    def texts(self, sample: Sample, settings: ModelConfig) -> list[str]:
        """Prompt with its hint, answer in the model's wording, and what stands behind fast frames."""
        ids = FrameIds(settings.max_frames, sample.duration_s or 1.0, settings.end_of)
        try:
            written = write_answer(sample.task, sample.events, ids, len(sample.tracks), settings.answers)
        except AnswerError:  # named when the sample is drawn
            written = ""
        asked = hinted(sample.prompt, sample.task).strip() if settings.task_hints else sample.prompt
        said_ids = (settings.id_text.format(id=i) for i in range(settings.max_frames))
        return [text for text in (asked, written, *said_ids) if text]


def sam_config(settings: SamConfig, initializer_range: float) -> dict[str, Any]:
    """SAM2's transformers config as a mapping."""
    size, width, own = settings.image_size, settings.hidden_size, {"initializer_range": initializer_range}
    dims = [settings.backbone_width * 2**i for i in range(4)]
    return {
        **own,
        "vision_config": {
            **own,
            "model_type": "sam2_vision_model",
            "backbone_config": {
                **own,
                "model_type": "sam2_hiera_det_model",
                "image_size": [size, size],
                "hidden_size": dims[0],
                "num_attention_heads": settings.backbone_heads,
                "blocks_per_stage": list(settings.blocks),
                "embed_dim_per_stage": dims,
                "num_attention_heads_per_stage": [settings.backbone_heads * 2**i for i in range(4)],
                "window_size_per_stage": list(settings.windows),
                "global_attention_blocks": list(settings.global_blocks),
                "window_positional_embedding_background_size": [settings.position_size] * 2,
            },
            "backbone_channel_list": dims[::-1],
            "backbone_feature_sizes": [[size // n, size // n] for n in (4, 8, 16)],
            "fpn_hidden_size": width,
        },
        "prompt_encoder_config": {"hidden_size": width, "image_size": size, "patch_size": 16},
        "mask_decoder_config": {
            "hidden_size": width,
            "mlp_dim": settings.mlp_dim,
            "iou_head_hidden_dim": width,
            "num_attention_heads": settings.decoder_heads,
            "dynamic_multimask_via_stability": settings.multimask,
        },
        "image_size": size,
        "num_maskmem": settings.num_maskmem,
        "multimask_output_in_sam": settings.multimask,
        "enable_occlusion_spatial_embedding": settings.occlusion,
        "enable_temporal_pos_encoding_for_object_pointers": settings.occlusion,
        "memory_attention_hidden_size": width,
        "memory_attention_num_layers": settings.memory_layers,
        "memory_attention_feed_forward_hidden_size": settings.mlp_dim,
        "memory_attention_rope_feat_sizes": [size // 16, size // 16],
        "memory_encoder_hidden_size": width,
        "memory_encoder_output_channels": 64,
        "mask_downsampler_embed_dim": width,
        "memory_fuser_embed_dim": width,
        "memory_fuser_intermediate_dim": settings.fuser_dim,
    }


FAMILY = VideoLoomFamily()
