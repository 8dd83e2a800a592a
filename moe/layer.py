"""The MoE layer: gate, routed experts, shared experts."""

from __future__ import annotations

from torch import Tensor, nn

from .config import MoEConfig
from .dispatch import Dispatch, LocalDispatch
from .experts import Experts, SharedExperts
from .gate import Gate, Routing


class MoELayer(nn.Module):
    """y = sum over the routed experts of weight * E_e(x), plus the shared experts (ARIA adds them ungated)."""

    def __init__(self, config: MoEConfig, *, model_dim: int, num_token_types: int) -> None:
        super().__init__()
        self.gate = Gate(config, model_dim=model_dim, num_token_types=num_token_types)
        self.dispatch: Dispatch = LocalDispatch()
        self.experts = Experts(config.slots, model_dim, config.expert_dim, config.backend)
        shared = config.num_shared_experts * config.expert_dim
        self.shared_experts = SharedExperts(model_dim, shared) if shared else None

    def forward(self, x_BSD: Tensor, type_BS: Tensor, role_BS: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x_BSD (B, S, D), type_BS (B, S) int64 token types -> output (B, S, D) and what the gate decided.

        ``role_BS`` (B, S): see :class:`TokenRole`; only the adaptive process needs it.
        """
        x_TD = x_BSD.reshape(-1, x_BSD.shape[-1])
        role_T = None if role_BS is None else role_BS.reshape(-1)
        routing = self.gate(x_TD, type_BS.reshape(-1), role_T)
        y_TD = self.dispatch(self.experts, x_TD, routing)
        y_BSD = y_TD.view_as(x_BSD)
        if self.shared_experts is not None:
            y_BSD = y_BSD + self.shared_experts(x_BSD)
        return y_BSD, routing
