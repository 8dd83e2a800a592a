"""The experts of a mixture over routed tokens: gather, SwiGLU MLP of each row's expert, weighted sum per token.

T tokens, P routed (token, expert) pairs, D model dim, F expert dim, E expert slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .backend import KernelError, use_triton
from .permutation import Permutation


def swiglu_experts(
    x: Tensor,
    gate_up_ED2F: Tensor,
    down_EFD: Tensor,
    order: Permutation | Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """down(silu(gate(row)) * up(row)) with the weights of each row's expert: (P, D) rows sorted by expert.

    ``order``: a permutation, and row p is ``x[token_P[p]]`` of x (T, D); or expert offsets (E + 1,) int32, and x
    (P, D) is sorted by expert already. Weights may have any strides: ``(E, 2F, D).transpose(1, 2)`` costs nothing.
    With more entries than pairs (``num_pairs`` of permute), the rows past the last pair hold nothing of use.
    Gradients reach x and both weights. KernelError: types or shapes that do not fit together.
    """
    _check_weights(x, gate_up_ED2F, down_EFD)
    _check_order(order, x.shape[0], gate_up_ED2F.shape[0])
    token_P = order.token_P if isinstance(order, Permutation) else None
    offsets_E1 = order.expert_offsets_E1 if isinstance(order, Permutation) else order
    if not use_triton(backend, x.device, x.dtype):
        rows_PD = x if token_P is None else x.index_select(0, token_P)
        return reference.swiglu(rows_PD, gate_up_ED2F, down_EFD, offsets_E1)
    from . import triton_experts

    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, gate_up_ED2F, down_EFD))
    back = (order.pair_P, order.token_offsets_T1) if isinstance(order, Permutation) else (None, None)
    return triton_experts.swiglu_experts(x, gate_up_ED2F, down_EFD, offsets_E1, token_P, *back, keep)[0]


def combine(rows_PD: Tensor, weight_P: Tensor, permutation: Permutation, *, backend: str = "auto") -> Tensor:
    """(T, D): each token's sum of weight * row over its pairs, 0 where it has none.

    Summed in float32 in the order of the experts: on the triton backend the same bits every time. Gradients reach
    rows and weights. KernelError: rows or weights are not as many as the pairs.
    """
    pairs = permutation.token_P.shape[0]
    if rows_PD.dim() != 2 or rows_PD.shape[0] != pairs or weight_P.shape != (pairs,):
        raise KernelError(
            f"combine: rows {tuple(rows_PD.shape)} and weights {tuple(weight_P.shape)} do not fit the permutation's "
            f"{pairs} pairs; they must be (pairs, D) and (pairs,)."
        )
    if use_triton(backend, rows_PD.device, rows_PD.dtype):
        from . import triton_combine

        p = permutation
        return triton_combine.combine(rows_PD, weight_P, p.token_P, p.pair_P, p.token_offsets_T1)
    num_tokens = permutation.token_offsets_T1.shape[0] - 1
    return reference.combine(rows_PD, weight_P, permutation.token_P, num_tokens)


def experts_forward(
    x_TD: Tensor,
    gate_up_ED2F: Tensor,
    down_EFD: Tensor,
    permutation: Permutation,
    weight_P: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """y_TD: each token's mean over its experts, or its sum with ``weight_P`` (P,) as the weights of the pairs.

    Under autocast the products run in its type, and y has the type of ``x_TD`` all the same.
    """
    device, tensors = x_TD.device.type, (x_TD, gate_up_ED2F, down_EFD)
    if torch.is_autocast_enabled(device):  # operators of one's own do not follow autocast by themselves
        kind = torch.get_autocast_dtype(device)
        tensors = (x_TD.to(kind), gate_up_ED2F.to(kind), down_EFD.to(kind))
    if weight_P is None:
        weight_P = permutation.mean_weights()
    with torch.autocast(device, enabled=False):
        rows_PD = swiglu_experts(*tensors, permutation, backend=backend)
        return combine(rows_PD, weight_P, permutation, backend=backend).to(x_TD.dtype)


def _check_weights(x: Tensor, gate_up_ED2F: Tensor, down_EFD: Tensor) -> None:
    if not x.dtype == gate_up_ED2F.dtype == down_EFD.dtype:
        raise KernelError(
            f"experts: x is {x.dtype}, gate_up {gate_up_ED2F.dtype}, down {down_EFD.dtype}; they must be of one type. "
            "Cast them, or call experts_forward under torch.autocast."
        )
    E, D, F2 = gate_up_ED2F.shape
    if x.dim() != 2 or x.shape[1] != D or down_EFD.shape != (E, F2 // 2, D) or F2 % 2:
        raise KernelError(
            f"experts: x {tuple(x.shape)}, gate_up {tuple(gate_up_ED2F.shape)}, down {tuple(down_EFD.shape)} do not "
            "fit together; they must be (rows, D), (E, D, 2F), (E, F, D)."
        )


def _check_order(order: Permutation | Tensor, num_tokens: int, num_experts: int) -> None:
    """The kernels trust these numbers: a wrong one would send them past the end of a tensor."""
    offsets_E1 = order.expert_offsets_E1 if isinstance(order, Permutation) else order
    if offsets_E1.shape != (num_experts + 1,):
        raise KernelError(
            f"experts: the offsets have shape {tuple(offsets_E1.shape)}; for weights of {num_experts} experts it must "
            f"be ({num_experts + 1},). Permute a mask with a column per expert."
        )
    if isinstance(order, Permutation) and order.token_offsets_T1.shape[0] != num_tokens + 1:
        raise KernelError(
            f"experts: the permutation is of {order.token_offsets_T1.shape[0] - 1} tokens, x has {num_tokens}. Permute "
            "the mask of these tokens."
        )
