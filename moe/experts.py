"""The experts: SwiGLU MLPs stacked in two tensors, computed over rows sorted by expert.

P rows (routed pairs), D model dim, F expert dim, E expert slots. The layout is ARIA's:
``gate_up_proj`` (E, D, 2F), ``down_proj`` (E, F, D).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def grouped_gemm_loop(rows_PD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """Rows of expert e times its matrix: the definition of correct. rows_PD are sorted by expert."""
    # unbind, not weight[e]: indexing allocates a full-size gradient per expert
    parts = rows_PD.split(counts_E.tolist())
    return torch.cat([part @ w for part, w in zip(parts, weight_EDF.unbind(), strict=True)])


def grouped_gemm_torch(rows_PD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """The same through torch's grouped_mm: one call, no loop over experts."""
    return F.grouped_mm(rows_PD, weight_EDF, offs=counts_E.cumsum(0).to(torch.int32))


def can_use_grouped_mm(rows: Tensor, *weights: Tensor) -> bool:
    """Whether torch's grouped_mm takes these: 16-byte strides; bf16 on a GPU, also float32 on a CPU."""
    types = (torch.bfloat16,) if rows.is_cuda else (torch.bfloat16, torch.float32, torch.float16)
    aligned = all(n * rows.element_size() % 16 == 0 for weight in weights for n in weight.shape[1:])
    return hasattr(F, "grouped_mm") and rows.dtype in types and aligned and rows.shape[0] > 0


class Experts(nn.Module):
    """E SwiGLU experts: down(silu(gate(x)) * up(x))."""

    def __init__(self, num_experts: int, model_dim: int, expert_dim: int, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, model_dim, 2 * expert_dim))
        self.down_proj = nn.Parameter(torch.empty(num_experts, expert_dim, model_dim))

    def forward(self, rows_PD: Tensor, counts_E: Tensor) -> Tensor:
        """rows_PD sorted by expert, counts_E (E,) int64 rows of each; returns (P, D)."""
        gate_up: Tensor = self.gate_up_proj
        down: Tensor = self.down_proj
        if torch.is_autocast_enabled(rows_PD.device.type):  # grouped_mm does not follow autocast
            kind = torch.get_autocast_dtype(rows_PD.device.type)
            rows_PD, gate_up, down = rows_PD.to(kind), gate_up.to(kind), down.to(kind)
        gemm = grouped_gemm_loop
        if self.backend != "loop" and can_use_grouped_mm(rows_PD, gate_up, down):
            gemm = grouped_gemm_torch
        elif self.backend == "grouped_mm" and rows_PD.shape[0]:
            raise ValueError(
                f"moe.backend is grouped_mm, but torch's grouped_mm does not take {rows_PD.dtype} of shape "
                f"{tuple(gate_up.shape)} and {tuple(down.shape)} on {rows_PD.device.type}. Use backend auto, or dims "
                "that are multiples of 8."
            )
        gate, up = gemm(rows_PD, gate_up, counts_E).chunk(2, dim=-1)
        return gemm(F.silu(gate) * up, down, counts_E)


class SharedExperts(nn.Module):
    """One SwiGLU MLP of num_shared * expert_dim that every token passes (ARIA's ``shared_experts``)."""

    def __init__(self, model_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(model_dim, hidden_dim, bias=False)
        self.up_proj = nn.Linear(model_dim, hidden_dim, bias=False)
        self.down_proj = nn.Linear(hidden_dim, model_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
