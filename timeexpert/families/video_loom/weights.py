"""Published weights in a new VideoLoom: InternVL in transformers' form, and SAM2."""

from __future__ import annotations

import torch

from timeexpert.families.published import Loaded, fill
from timeexpert.model.weights import WeightsError

from .model import VideoLoom

# Names in folders that were written before transformers 4.52, and now.
OLD_NAMES = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
WORDS, HEAD = "mllm.model.language_model.embed_tokens.weight", "mllm.lm_head.weight"
POSITIONS = "shared_image_embedding.positional_embedding"
SAME_POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"  # one random matrix that SAM2 has twice


def load_published(model: VideoLoom, internvl: str | None, sam2: str | None) -> Loaded:
    """Fill ``model`` from folders of safetensors, as :func:`fill`; ``None`` leaves its own values.

    Tables of words may have more rows than the vocabulary has pieces: the first ones are taken. [SEG] then starts
    from the mean of all words.
    """
    done = Loaded()
    if internvl is not None:
        which = "another model; of InternVL one in transformers' form, whose name ends in -hf"
        done += fill(model, internvl, "mllm.", _of_internvl, may_cut=(WORDS, HEAD), may_lack=(HEAD,), which=which)
        if HEAD in done.missing:  # tied to the table of words
            with torch.no_grad():
                model.mllm.lm_head.weight.copy_(model.get_input_embeddings().weight)
        with torch.no_grad():
            model.seg_embedding.copy_(model.get_input_embeddings().weight.mean(0, keepdim=True))
            model.seg_output.copy_(model.mllm.lm_head.weight.mean(0, keepdim=True))
    if sam2 is not None:
        prefix = "mask_head.sam."
        twins = {prefix + POSITIONS: prefix + SAME_POSITIONS, prefix + SAME_POSITIONS: prefix + POSITIONS}
        found = fill(model, sam2, prefix, may_lack=tuple(twins))
        own = model.state_dict()
        for name, twin in twins.items():
            if name in found.missing:
                if twin in found.missing:
                    raise WeightsError(f"{sam2}: has neither {POSITIONS} nor {SAME_POSITIONS}. Give a folder of SAM2.")
                own[name].copy_(own[twin])
        done += found
    return done


def _of_internvl(name: str) -> str:
    for old, new in OLD_NAMES:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
