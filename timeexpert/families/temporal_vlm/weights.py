"""Published weights in a new TemporalVLM: InstructBLIP's vision tower and Q-Former, LLaMA's language model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from timeexpert.model.weights import SafetensorsFolder, WeightsError

from .model import TemporalVLM

TOWERS = ("vision_model.", "qformer.", "query_tokens")  # of InstructBLIP; its language model is another one
WORDS = "qformer.embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Loaded:
    """Our names that hold published values, and those that a folder had no value for."""

    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __add__(self, other: Loaded) -> Loaded:
        return Loaded(self.loaded + other.loaded, self.missing + other.missing)


def load_published(model: TemporalVLM, instructblip: str | None, llama: str | None) -> Loaded:
    """Fill ``model`` from folders of safetensors, whole or in shards with an index; ``None`` leaves its own values.

    The table of words of the Q-Former stays new where the time's sentence is written in another tokenizer
    (``qformer.tokenizer``). Raises :class:`WeightsError` where a tensor is missing or has another shape.
    """
    done = Loaded()
    if instructblip is not None:
        may_miss = set() if model.config.stamp_tokenizer else {f"frame_encoder.{WORDS}"}
        done += _fill(model, instructblip, "frame_encoder.", _of_towers, may_miss)
    if llama is not None:
        done += _fill(model, llama, "llm.", lambda name: name, set())
    return done


def _of_towers(name: str) -> str | None:
    """A name without the prefix that some versions of transformers write; None for the language model."""
    name = name.removeprefix("model.")
    return name if name.startswith(TOWERS) else None


@torch.no_grad()
def _fill(
    model: TemporalVLM, folder: str, prefix: str, rename: Callable[[str], str | None], may_miss: set[str]
) -> Loaded:
    own = {name: value for name, value in model.state_dict().items() if name.startswith(prefix)}
    wanted = {name for name in own if ".lora_" not in name}
    loaded = []
    for name, value in SafetensorsFolder(folder):
        renamed = rename(name)
        if renamed is None:
            continue
        target = prefix + renamed
        if target not in own:  # LoRA keeps the matrix beside itself
            target = target.removesuffix(".weight") + ".base_layer.weight"
        if target not in own or target in may_miss:
            continue
        if own[target].shape != value.shape:
            raise WeightsError(
                f"{folder}: {name} has shape {list(value.shape)}, this model's {list(own[target].shape)}. Set the "
                "sizes under model to those of the folder's config.json, and the tokenizer to its own."
            )
        own[target].copy_(value)
        loaded.append(target)
    missing = sorted(wanted - set(loaded))
    if lost := [name for name in missing if name not in may_miss]:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise WeightsError(f"{folder}: has no value for {', '.join(lost[:3])}{more}. Give the folder of another model.")
    return Loaded(tuple(loaded), tuple(missing))
