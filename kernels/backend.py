"""Which code runs: Triton on a GPU or in its interpreter, plain torch everywhere else."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Literal

import torch

from timeexpert.errors import UserError

BACKENDS = ("auto", "triton", "torch")
Fallback = Literal["least_utilised", "top1", "skip"]
StraightThrough = Literal["selected", "all"]
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class KernelError(UserError):
    """A request that no kernel here can serve."""


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter: ``TRITON_INTERPRET=1``, read by triton when it is first imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off; entering that where it is off already costs more than a small operation."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def use_triton(backend: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton computes tensors of ``dtype`` on ``device``.

    ``auto`` takes Triton where it can run: on a GPU of compute capability 8.0 or more (any ROCm device), or on a CPU
    in the interpreter; ``torch`` is the reference. KernelError: ``triton`` is asked for where it cannot run.
    """
    if backend not in BACKENDS:
        raise KernelError(f"kernels: backend ({backend!r}) must be one of {', '.join(BACKENDS)}.")
    if backend == "torch":
        return False
    problem = _problem(device, dtype)
    if problem and backend == "triton":
        raise KernelError(f"kernels: backend is 'triton', but {problem}; or use backend 'auto' or 'torch'.")
    return problem is None


def _problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why Triton cannot run there, with the way out; None where it can."""
    if find_spec("triton") is None:
        return "triton is not installed. Install the extra 'triton'"
    if dtype not in TRITON_DTYPES:
        return f"the kernels do not take {dtype}. Cast to one of {', '.join(str(kind) for kind in TRITON_DTYPES)}"
    if interpreted():
        return None
    if device.type != "cuda":
        return f"the tensors are on {device.type}. Move them to a GPU, or set TRITON_INTERPRET=1 before Python starts"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} has a compute capability below 8.0. Use a newer GPU"
    return None
