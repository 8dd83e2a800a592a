"""What the Triton kernels share. Importing this needs triton; only the modules named triton_* do so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from .backend import interpreted

INTERPRETED = tl.constexpr(interpreted())


def autotune(
    configs: list[Any], key: list[str], *, interpreter: dict[str, int], prune: Callable[..., list[Any]] | None = None
) -> Callable[[Any], Any]:
    """triton.autotune; in the interpreter one config of small blocks, which cross every kind of edge.

    The interpreter cannot time configs: with more than one it fails for want of a GPU. ``prune(configs, args)`` says
    which are worth timing.
    """
    chosen = [triton.Config(interpreter)] if interpreted() else configs
    return triton.autotune(chosen, key=key, prune_configs_by={"early_config_prune": prune} if prune else None)


def precision() -> str:
    """How tl.dot multiplies float32: what torch is set to do (bf16 and fp16 inputs do not depend on it)."""
    # allow_tf32 cannot be read where a program has set fp32_precision, which follows it
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b, summed in float32."""
    if INTERPRETED:  # the interpreter keeps bf16 as integers and would multiply those
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)
