"""Published weights in a new model, from folders of safetensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from timeexpert.model.weights import SafetensorsFolder, WeightsError


@dataclass(frozen=True)
class Loaded:
    """Our names that hold published values, and those that a folder had no value for."""

    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __add__(self, other: Loaded) -> Loaded:
        return Loaded(self.loaded + other.loaded, self.missing + other.missing)


@torch.no_grad()
def fill(
    model: nn.Module,
    folder: str,
    prefix: str,
    rename: Callable[[str], str | None] = lambda name: name,
    *,
    may_cut: tuple[str, ...] = (),
    may_lack: tuple[str, ...] = (),
    which: str = "another model",
) -> Loaded:
    """Fill the weights whose names begin with ``prefix`` from a folder, whole or in shards with an index.

    ``rename``: a published name as ours without ``prefix``; None for a tensor that is not wanted. Of ``may_cut`` the
    folder may have more rows, of which the first are taken; it may lack those of ``may_lack``. Matrices that LoRA
    stands beside are found, its updates keep their values. ``which`` folder the message asks for. Raises
    :class:`WeightsError` where a tensor is missing or has another shape.
    """
    own = {name: value for name, value in model.state_dict().items() if name.startswith(prefix)}
    loaded = []
    for name, value in SafetensorsFolder(folder):
        renamed = rename(name)
        if renamed is None:
            continue
        target = prefix + renamed
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
    missing = sorted({name for name in own if ".lora_" not in name} - set(loaded))
    if lost := [name for name in missing if name not in may_lack]:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise WeightsError(f"{folder}: has no value for {', '.join(lost[:3])}{more}. Give the folder of {which}.")
    return Loaded(tuple(loaded), tuple(missing))
