"""Checkpoints: atomic folders of safetensors and JSON with a manifest of checksums. No pickle anywhere."""

from .folder import MANIFEST, CheckpointError, recover, sha256, verify, write_folder
from .pieces import Pieces
from .state import (
    MODEL,
    OPTIMIZER,
    TRAINER,
    TRAINER_STATE,
    load_optimizers,
    load_trainer,
    load_weights,
    optimizer_tensors,
    whole_model,
)

__all__ = [
    "MANIFEST",
    "MODEL",
    "OPTIMIZER",
    "TRAINER",
    "TRAINER_STATE",
    "CheckpointError",
    "Pieces",
    "load_optimizers",
    "load_trainer",
    "load_weights",
    "optimizer_tensors",
    "recover",
    "sha256",
    "verify",
    "whole_model",
    "write_folder",
]
