"""Makes a model folder with only what reports read: config, the experts' tensors, the step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DIM, EXPERT_DIM, HEADS = 4, 2, 2


def expert_tensors(layers: int, slots: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random gate rows and expert weights by name; every slot is active."""
    draw = torch.Generator().manual_seed(seed)
    out = {}
    for layer in range(layers):
        name = f"decoder.layers.{layer}.moe."
        out[f"{name}gate.weight"] = torch.randn(slots, DIM, generator=draw)
        out[f"{name}gate.active_experts"] = torch.ones(slots, dtype=torch.bool)
        out[f"{name}experts.gate_up_proj"] = torch.randn(slots, DIM, 2 * EXPERT_DIM, generator=draw)
        out[f"{name}experts.down_proj"] = torch.randn(slots, EXPERT_DIM, DIM, generator=draw)
    return out


def write_model(
    folder: Path, tensors: dict[str, torch.Tensor], *, stage: str = "sft", global_step: int = 200, **moe: Any
) -> Path:
    """A folder that reports take for a model of these tensors; ``moe`` changes settings of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    layers = sum(name.endswith("gate.weight") for name in tensors)
    slots = len(tensors["decoder.layers.0.moe.gate.weight"])
    text = {"hidden_size": DIM, "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": 1}
    settings = {"num_experts": slots, "expert_dim": EXPERT_DIM, "num_shared_experts": 1, "top_k": 2} | moe
    (folder / "config.json").write_text(json.dumps({"text_config": text, "moe": settings}))
    (folder / "inference.json").write_text(json.dumps({"stage": stage, "global_step": global_step}))
    save_file(tensors, folder / "model.safetensors")
    return folder
