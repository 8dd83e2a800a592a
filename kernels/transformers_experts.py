"""These kernels as an experts implementation of transformers: any of its SwiGLU mixtures uses them by name.

    from timeexpert.kernels.transformers_experts import use_timeexpert_experts
    use_timeexpert_experts(model)

or, where a config asks for it by name (``experts_implementation="timeexpert"``), ``register()`` before the model is
made. T tokens, K experts per token, E expert slots.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations import moe as hf_moe

from .backend import KernelError
from .experts import experts_forward
from .permutation import permute

NAME = "timeexpert"


def register() -> None:
    """Make the name ``timeexpert`` known to transformers."""
    hf_moe.ExpertsInterface.register(NAME, forward)


def use_timeexpert_experts(model: Any) -> None:
    """Let every mixture of ``model`` (a transformers ``PreTrainedModel``) compute its experts here.

    KernelError: the model has none, or one that is not SwiGLU without bias.
    """
    found = [module for module in model.modules() if hasattr(module, "is_transposed") and hasattr(module, "has_gate")]
    if not found:
        raise KernelError(f"{type(model).__name__} has no experts whose implementation transformers lets one choose.")
    for module in found:
        _check(module)
    register()
    model.set_experts_implementation(NAME)


def forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The experts of (T, D) tokens: indices and weights (T, K), as transformers calls every implementation.

    Under expert parallelism an index of E or more stands for an expert that is elsewhere: it adds nothing.
    """
    _check(self)
    T, K = top_k_index.shape
    E = self.num_experts
    slot_TK = top_k_index.clamp(max=E)  # one column more, for what is elsewhere
    mask_TE = torch.zeros(T, E + 1, dtype=torch.bool, device=hidden_states.device).scatter(1, slot_TK, True)
    # added, not set: a router that names an expert twice means the sum of its weights
    weight_TE = top_k_weights.new_zeros(T, E + 1).scatter_add(1, slot_TK, top_k_weights)
    permutation = permute(mask_TE[:, :E], num_pairs=None if self._is_expert_parallel else T * K)
    gate_up, down = self.gate_up_proj, self.down_proj
    if not self.is_transposed:  # stored (E, out, in), as nn.Linear
        gate_up, down = gate_up.transpose(1, 2), down.transpose(1, 2)
    weight_P = permutation.at_pairs(weight_TE[:, :E])
    return experts_forward(hidden_states, gate_up, down, permutation, weight_P)


def _check(experts: Any) -> None:
    """KernelError where these experts compute something else than down(silu(gate) * up)."""
    problems = {
        "have no gate": not experts.has_gate,
        "have a bias": experts.has_bias,
        "normalise their output": experts.has_post_expert_norm,
        "interleave gate and up": not experts.is_concatenated,
        "gate in a way of their own": type(experts)._apply_gate.__module__ != hf_moe.__name__,
        "use another activation than SiLU": not _is_silu(getattr(experts, "act_fn", None)),
    }
    wrong = [words for words, is_so in problems.items() if is_so]
    if wrong:
        raise KernelError(
            f"experts implementation {NAME!r}: the {type(experts).__name__} of this model {' and '.join(wrong)}; only "
            "down(silu(gate) * up) is computed here. Use model.set_experts_implementation('grouped_mm')."
        )


def _is_silu(act: Any) -> bool:
    return isinstance(act, nn.SiLU) or type(act).__name__ == "SiLUActivation" or act is nn.functional.silu
