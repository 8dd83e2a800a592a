"""What MFU is measured against while a run trains: FLOPs that a token needs, FLOPs that a device could do."""

from __future__ import annotations

import torch

from timeexpert.families.timeexpert.settings import ModelConfig
from timeexpert.stages.config import RunConfig, StageConfig

from .flops import flops
from .hardware import GPUS
from .plan import stage_model


def utilisation(config: RunConfig, stage: StageConfig, vocab_size: int, device: torch.device) -> dict[str, float]:
    """``peak_flops`` and ``flops_per_token``; nothing where the device's peak, or the model's work, is not known."""
    peak = peak_flops(device, config.train.precision != "fp32")
    if peak is None or not isinstance(config.model, ModelConfig):
        return {}
    return {"peak_flops": peak, "flops_per_token": flops_per_token(config, stage, vocab_size)}


def flops_per_token(config: RunConfig, stage: StageConfig, vocab_size: int) -> float:
    """Of forward and backward pass over the stage's typical rows, without what checkpointing does again."""
    model = stage_model(config, stage, vocab_size)
    batch = model.rows.batch(model.videos)
    work = flops(model.dimensions, batch, model.trains, False)
    return sum(part.forward + part.backward for part in work.values()) / batch.tokens


def peak_flops(device: torch.device, bf16: bool) -> float | None:
    """Of the planner's figures for the GPU that ``device`` is; None where it is none of those."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return peak_of(properties.name, properties.total_memory / 2**30, bf16)


def peak_of(name: str, memory_gib: float, bf16: bool) -> float | None:
    """FLOP/s by a device's own name (``NVIDIA H100 80GB HBM3``) and memory."""
    of_family = [gpu for gpu in GPUS.values() if gpu.name.split("-")[0] in name.lower().replace(" ", "")]
    near = [gpu for gpu in of_family if abs(gpu.memory_gib - memory_gib) < 0.15 * memory_gib]
    if not near:
        return None
    return 1e12 * (near[0].bf16_tflops if bf16 else near[0].fp32_tflops)
