"""Slot compression: any number of visual tokens of a frame become 8 (TRACE's ``spatial_slot``, which the
paper builds on).

N frames, P patches, C channels, K slots, D model dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rotate_by_index(x_NPC: Tensor) -> Tensor:
    """Rotary position embedding over the patch index on the whole feature vector (one head, base 10000)."""
    patches, channels = x_NPC.shape[-2:]
    half = channels // 2
    inverse = 10000.0 ** (-torch.arange(half, device=x_NPC.device, dtype=torch.float32) / half)
    angle = torch.arange(patches, device=x_NPC.device, dtype=torch.float32)[:, None] * inverse
    cos, sin = angle.cos().to(x_NPC.dtype), angle.sin().to(x_NPC.dtype)
    a, b, rest = x_NPC[..., :half], x_NPC[..., half : 2 * half], x_NPC[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


class SlotCompressor(nn.Module):
    """LayerNorm, rotary over patches, K learned slots that each take a softmax over the *patches*, readout.

    Slots do not compete, and the logits are not divided by sqrt(C), as in TRACE.
    """

    def __init__(self, in_dim: int, model_dim: int, num_slots: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_dim)
        self.slots = nn.Parameter(torch.empty(in_dim, num_slots))
        self.readout = nn.Linear(in_dim, model_dim, bias=False)

    def forward(self, x_NPC: Tensor) -> Tensor:
        """(N, P, C) -> (N, K, D)."""
        x = rotate_by_index(self.norm(x_NPC))
        weight_NPK = (x @ self.slots).softmax(dim=1)
        return self.readout(weight_NPK.transpose(1, 2) @ x)
