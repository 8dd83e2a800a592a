"""A vision tower whose features may come in place of frames: kept ahead of training, or shared by several passes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

SETTINGS = (
    *("model_type", "image_size", "patch_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "hidden_act", "layer_norm_eps"),
)


@dataclass(frozen=True)
class Tower:
    """``features``: (N, 3, H, W) uint8 -> what ``module`` makes of them, (N, P, C). ``pixels``: what it is given."""

    module: nn.Module
    features: Callable[[Tensor], Tensor]
    pixels: str

    def identity(self) -> dict[str, Any]:
        """What tells towers apart, as JSON: the sha256 of the weights (as float32), sizes, what they are given."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
        settings = {name: getattr(self.module.config, name, None) for name in SETTINGS}
        return {"weights": digest.hexdigest(), **settings, "pixels": self.pixels}
