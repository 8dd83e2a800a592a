"""Published weights in a new VideoLoom: InternVL in transformers' form, and SAM2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from timeexpert.model.weights import SafetensorsFolder, WeightsError

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


@dataclass(frozen=True)
class Loaded:
    """Our names that hold published values."""

    loaded: tuple[str, ...] = ()


def load_published(model: VideoLoom, internvl: str | None, sam2: str | None) -> Loaded:
    """Fill ``model`` from folders of safetensors, whole or in shards with an index; ``None`` leaves its own values.

    Tables of words may have more rows than the vocabulary has pieces: the first ones are taken. [SEG] then starts
    from the mean of all words. Raises :class:`WeightsError` where a tensor is missing or has another shape.
    """
    names: tuple[str, ...] = ()
    if internvl is not None:
        names += _fill(model, internvl, "mllm.", _of_internvl, may_cut=(WORDS, HEAD), may_lack=(HEAD,))
        if HEAD not in names:  # tied to the table of words
            with torch.no_grad():
                model.mllm.lm_head.weight.copy_(model.get_input_embeddings().weight)
        with torch.no_grad():
            model.seg_embedding.copy_(model.get_input_embeddings().weight.mean(0, keepdim=True))
            model.seg_output.copy_(model.mllm.lm_head.weight.mean(0, keepdim=True))
    if sam2 is not None:
        prefix = "mask_head.sam."
        twins = {prefix + POSITIONS: prefix + SAME_POSITIONS, prefix + SAME_POSITIONS: prefix + POSITIONS}
        found = _fill(model, sam2, prefix, lambda name: name, may_lack=tuple(twins))
        own = model.state_dict()
        for name, twin in twins.items():
            if name not in found:
                if twin not in found:
                    raise WeightsError(f"{sam2}: has neither {POSITIONS} nor {SAME_POSITIONS}. Give a folder of SAM2.")
                own[name].copy_(own[twin])
        names += found
    return Loaded(names)


def _of_internvl(name: str) -> str:
    for old, new in OLD_NAMES:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


@torch.no_grad()
def _fill(
    model: VideoLoom,
    folder: str,
    prefix: str,
    rename: Callable[[str], str],
    may_cut: tuple[str, ...] = (),
    may_lack: tuple[str, ...] = (),
) -> tuple[str, ...]:
    own = {name: value for name, value in model.state_dict().items() if name.startswith(prefix)}
    wanted = {name for name in own if ".lora_" not in name}
    loaded = []
    for name, value in SafetensorsFolder(folder):
        target = prefix + rename(name)
        if target not in own:  # LoRA keeps the matrix and its bias beside itself
            owner, _, kind = target.rpartition(".")
            target = f"{owner}.base_layer.{kind}"
        if target not in own:
            continue
        shape = own[target].shape
        if target in may_cut and len(value) > shape[0]:
            value = value[: shape[0]]
        if shape != value.shape:
            raise WeightsError(
                f"{folder}: {name} has shape {list(value.shape)}, this model's {list(shape)}. Set the sizes under "
                "model to those of the folder's config.json, and text.tokenizer to its own."
            )
        own[target].copy_(value)
        loaded.append(target)
    if lost := sorted(wanted - set(loaded) - set(may_lack)):
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise WeightsError(
            f"{folder}: has no value for {', '.join(lost[:3])}{more}. Give the folder of another model; of InternVL "
            "one in transformers' form, whose name ends in -hf."
        )
    return tuple(loaded)
