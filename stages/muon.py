"""Muon whose iteration is in float32 on a CPU without bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def has_bfloat16() -> bool:
    """Whether products of bfloat16 matrices are fast on this CPU: oneDNN takes them, which needs AVX-512."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Muon(torch.optim.Muon):
    """torch's Muon, with its Newton-Schulz iteration in float32 on a CPU without bfloat16.

    torch computes it in bfloat16, which such a CPU emulates: 20 times slower for 128 x 256, half of a step of the tiny
    configs. Elsewhere torch's own step is taken. Updates are scaled to the root mean square of AdamW's.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, lr=lr, momentum=0.95, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """As torch's; momentum and settings are kept in its form."""
        on_cpu = all(p.device.type == "cpu" for group in self.param_groups for p in group["params"])
        if not on_cpu or has_bfloat16():
            return super().step(closure)
        if closure is not None:
            raise TypeError("a closure is not taken: gradients are ready when step() is called.")
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                update = orthogonalised(update.float(), group["ns_coefficients"], group["ns_steps"], group["eps"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                # the scale of match_rms_adamw
                parameter.add_(update, alpha=-0.2 * group["lr"] * max(parameter.shape) ** 0.5)
        return None


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """``matrix`` (M, N) with its singular values near 1: Newton-Schulz's iteration of fifth degree, in its own dtype
    (Jordan et al., Muon, 2024)."""
    a, b, c = coefficients
    tall = matrix.size(0) > matrix.size(1)
    wide = matrix.T if tall else matrix
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if tall else wide
