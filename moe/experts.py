"""The experts: SwiGLU MLPs stacked in two tensors, and the backends that compute what the gate routed to them.

T tokens, P routed pairs, D model dim, F expert dim, E expert slots. The layout is ARIA's:
``gate_up_proj`` (E, D, 2F), ``down_proj`` (E, F, D).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from timeexpert.errors import UserError
from timeexpert.kernels import reference
from timeexpert.kernels.backend import KernelError, use_triton, without_autocast
from timeexpert.kernels.experts import experts_forward
from timeexpert.kernels.permutation import permute

from .fused_experts import FEW_TOKENS, fused_experts, product_type
from .gate import Pairs

# Experts of a layer that stay in a CPU's cache. For few tokens it takes longer to pick those that have tokens than to
# multiply by all of them (24 tokens, checkpoints/tiny: 18 operations a layer in place of 54). Of larger ones only
# those that have tokens are read.
SMALL_BYTES = 2**20


class ExpertsError(UserError):
    """A backend that cannot compute these experts."""


def grouped_mm_experts(
    x_TD: Tensor, gate_up_ED2F: Tensor, down_EFD: Tensor, token_P: Tensor, weight_P: Tensor, counts_E: Tensor
) -> Tensor:
    """What :func:`fused_experts` computes, through torch's grouped_mm."""
    ends_E = counts_E.cumsum(0).to(torch.int32)
    gate, up = F.grouped_mm(x_TD.index_select(0, token_P), gate_up_ED2F, offs=ends_E).chunk(2, dim=-1)
    rows_PD = F.grouped_mm(F.silu(gate) * up, down_EFD, offs=ends_E)
    return reference.combine(rows_PD, weight_P, token_P, x_TD.shape[0])


def few_tokens_experts(x_TD: Tensor, gate_up_ED2F: Tensor, down_EFD: Tensor, pairs: Pairs) -> Tensor:
    """What :func:`fused_experts` computes, by giving every token to every expert, most with weight 0: three products
    in place of two for each expert that has tokens. Their shapes depend on nobody's routing, so a token's result does
    not depend on the tokens beside it."""
    kind, (experts, width, model_dim) = product_type(x_TD), down_EFD.shape
    weight_ET = x_TD.new_zeros(experts, len(x_TD), dtype=kind)
    weight_ET[pairs.expert_P, pairs.token_P] = pairs.weight_P.to(kind)
    x_ETD = x_TD.to(kind).expand(experts, -1, -1)
    gate, up = torch.bmm(x_ETD, gate_up_ED2F.to(kind)).chunk(2, dim=-1)
    hidden_ETF = F.silu(gate) * up * weight_ET[..., None]
    # one product sums over the experts, too
    return hidden_ETF.transpose(0, 1).reshape(-1, experts * width) @ down_EFD.to(kind).reshape(-1, model_dim)


def can_use_grouped_mm(x: Tensor, *weights: Tensor) -> bool:
    """Whether torch's grouped_mm takes these: 16-byte strides; bf16 on a GPU, also float32 on a CPU."""
    types = (torch.bfloat16,) if x.is_cuda else (torch.bfloat16, torch.float32, torch.float16)
    aligned = all(n * x.element_size() % 16 == 0 for weight in weights for n in weight.shape[1:])
    return hasattr(F, "grouped_mm") and x.dtype in types and aligned


class Experts(nn.Module):
    """E SwiGLU experts: down(silu(gate(x)) * up(x)). docs/experts.md explains the backends."""

    def __init__(self, num_experts: int, model_dim: int, expert_dim: int, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, model_dim, 2 * expert_dim))
        self.down_proj = nn.Parameter(torch.empty(num_experts, expert_dim, model_dim))

    def forward(self, x_TD: Tensor, pairs: Pairs) -> Tensor:
        """y_TD in the type of ``x_TD``: each token's weighted sum over its experts, 0 where it has none.

        Under autocast the products run in its type. ExpertsError: the backend cannot compute these experts.
        """
        device = x_TD.device.type
        tensors: tuple[Tensor, Tensor, Tensor] = (x_TD, _own(self.gate_up_proj), _own(self.down_proj))
        if torch.is_autocast_enabled(device):  # neither grouped_mm nor operators of one's own follow autocast
            kind = torch.get_autocast_dtype(device)
            tensors = (x_TD.to(kind), tensors[1].to(kind), tensors[2].to(kind))
        with without_autocast(x_TD.device):
            return self._compute(self._choose(*tensors), *tensors, pairs).to(x_TD.dtype)

    def _choose(self, *tensors: Tensor) -> str:
        """The backend for these tensors."""
        x_TD = tensors[0]
        if self.backend == "auto":
            # on a CPU Triton only has its interpreter, and grouped_mm is slower (benchmarks/README.md)
            if not x_TD.is_cuda:
                return "fused"
            if use_triton("auto", x_TD.device, x_TD.dtype):
                return "triton"
            return "grouped_mm" if can_use_grouped_mm(*tensors) else "fused"
        if self.backend == "triton":
            try:
                use_triton("triton", x_TD.device, x_TD.dtype)
            except KernelError as error:
                raise ExpertsError(f"moe.backend ('triton') cannot run here; set it to 'auto'. {error}") from error
        elif self.backend == "grouped_mm" and not can_use_grouped_mm(*tensors):
            raise ExpertsError(
                f"moe.backend is 'grouped_mm', but torch's grouped_mm does not take {x_TD.dtype} of shape "
                f"{tuple(self.gate_up_proj.shape)} and {tuple(self.down_proj.shape)} on {x_TD.device.type}. Set "
                "moe.backend to 'auto', or use dims that are multiples of 8."
            )
        return self.backend

    def _compute(self, backend: str, x_TD: Tensor, gate_up: Tensor, down: Tensor, pairs: Pairs) -> Tensor:
        if backend == "fused":
            small = gate_up.nbytes + down.nbytes <= SMALL_BYTES
            if small and 0 < len(x_TD) <= FEW_TOKENS and not torch.is_grad_enabled():
                return few_tokens_experts(x_TD, gate_up, down, pairs)
            return fused_experts(x_TD, gate_up, down, pairs.token_P, pairs.weight_P, pairs.tokens_per_expert_E)
        if backend == "grouped_mm":
            return grouped_mm_experts(x_TD, gate_up, down, pairs.token_P, pairs.weight_P, pairs.tokens_per_expert_E)
        kernels = "triton" if backend == "triton" else "torch"  # loop: the kernels' reference
        order = permute(pairs.mask_TE, num_pairs=len(pairs.token_P), backend=kernels)
        return experts_forward(x_TD, gate_up, down, order, pairs.weight_P, backend=kernels)


def _own(stacked: Tensor) -> Tensor:
    """The experts that this rank holds."""
    return stacked.to_local() if isinstance(stacked, DTensor) else stacked


class SharedExperts(nn.Module):
    """One SwiGLU MLP of num_shared * expert_dim that every token passes (ARIA's ``shared_experts``)."""

    def __init__(self, model_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(model_dim, hidden_dim, bias=False)
        self.up_proj = nn.Linear(model_dim, hidden_dim, bias=False)
        self.down_proj = nn.Linear(hidden_dim, model_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        kind = product_type(x)
        if torch.is_autocast_enabled(x.device.type) or kind == x.dtype:
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        gate, up, down = (layer.weight.to(kind) for layer in (self.gate_proj, self.up_proj, self.down_proj))
        x_K = x.to(kind)
        return F.linear(F.silu(F.linear(x_K, gate)) * F.linear(x_K, up), down).to(x.dtype)
