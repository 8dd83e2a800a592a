"""Frames to visual tokens: a transformers vision tower, ARIA's projector, the slot compressor.

A tower that is not trained makes the same of a frame each time. Its features (the last hidden state) may therefore come
from a cache in place of the pixels (:mod:`.tower`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AriaConfig, AutoModel
from transformers.models.aria.modeling_aria import AriaProjector

from .compressor import SlotCompressor
from .config import TimeExpertConfig
from .tower import Tower

TOWER_BYTES = 2**30  # of hidden states that are in memory at once; the frames of a long video would take tens of GB
PIXELS = "squares of image_size, RGB from -1 to 1"  # what a tower is given


def tower_of(module: nn.Module) -> Tower:
    """A transformers vision tower as TimeExpert uses it."""
    return Tower(module, partial(tower_features, module), PIXELS)


def tower_features(tower: nn.Module, pixel_values: Tensor) -> Tensor:
    """The tower's last hidden state: (N, 3, H, W) -> (N, P, C). uint8 is scaled to [-1, 1]."""
    if pixel_values.dtype == torch.uint8:
        pixel_values = pixel_values.float() / 127.5 - 1
    pixel_values = pixel_values.to(next(tower.parameters()).dtype)
    parts = pixel_values.split(_frames_at_once(tower, pixel_values))
    return torch.cat([tower(part, output_hidden_states=True).hidden_states[-1] for part in parts])


def _frames_at_once(tower: nn.Module, pixel_values: Tensor) -> int:
    """How many frames the tower, which returns the states of all its layers, can take within TOWER_BYTES."""
    config: Any = tower.config
    states = pixel_values.shape[-2:].numel() // config.patch_size**2 * config.hidden_size * config.num_hidden_layers
    return max(1, TOWER_BYTES // (states * pixel_values.element_size()))


class FrameEncoder(nn.Module):
    """uint8 or float frames (N, 3, H, W), or the tower's features of them -> visual tokens (N, tokens_per_frame, D).

    The tower's last hidden state before any post-layernorm is used, as in ARIA. Placement of the slots:
    ``vision`` (tower -> slots), ``projector`` (tower -> projector -> slots), ``queries`` (tower -> projector
    with ``tokens_per_frame`` queries).
    """

    def __init__(self, config: TimeExpertConfig) -> None:
        super().__init__()
        self.placement = config.compressor
        model_dim, vision_dim = config.text_config.hidden_size, config.vision_config.hidden_size
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.projector: AriaProjector | None = None
        self.compressor: SlotCompressor | None = None
        if self.placement != "vision":
            queries = config.projector_queries
            patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
            if patches not in queries:
                raise ValueError(
                    f"image_size ({config.vision_config.image_size}) gives {patches} patches, for which "
                    f"projector_queries ({queries}) names no number of queries; ARIA's are 490 and 980 pixels."
                )
            if self.placement == "queries":
                queries = dict.fromkeys(queries, config.tokens_per_frame)
            aria = AriaConfig(  # of copies: it sets the attention of the configs that it is given
                vision_config=config.vision_config.to_dict(),
                text_config=config.text_config.to_dict(),
                projector_patch_to_query_dict=queries,
            )
            self.projector = AriaProjector(aria)
        if self.placement != "queries":
            in_dim = vision_dim if self.placement == "vision" else model_dim
            self.compressor = SlotCompressor(in_dim, model_dim, config.tokens_per_frame)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) pixels, or (N, P, C) features of :func:`tower_features` -> (N, tokens_per_frame, D)."""
        if frames.ndim == 3:
            x = frames.to(next(self.vision_tower.parameters()).dtype)
        else:
            x = tower_features(self.vision_tower, frames)
        if self.projector is not None:
            x = self.projector(x)
        return x if self.compressor is None else self.compressor(x)
