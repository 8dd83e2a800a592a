"""From a routing mask to rows sorted by expert, and back: the index lists of variable-k routing.

T tokens, E expert slots, P routed (token, expert) pairs, B blocks of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import reference
from .backend import KernelError, use_triton


@dataclass(frozen=True)
class Permutation:
    """Routed pairs sorted by expert, then token, as ``mask_TE.t().nonzero()`` gives them, and the way back.

    ``token_P``, ``expert_P`` (P,) int64: the pairs. ``expert_offsets_E1`` (E + 1,) int32: expert e has the pairs from
    ``[e]`` up to ``[e + 1]``. ``pair_P`` (P,) int32: the pairs sorted by token, then expert; token t has
    the entries from ``token_offsets_T1[t]`` up to ``[t + 1]`` ((T + 1,) int32), so that summing over a token's pairs
    needs no atomic adds and gives the same bits every time. Where P was given and is more than the mask holds, entries
    past ``expert_offsets_E1[-1]`` stand for nothing: they are 0, and gradients of what belongs to them are 0.
    """

    token_P: Tensor
    expert_P: Tensor
    expert_offsets_E1: Tensor
    pair_P: Tensor
    token_offsets_T1: Tensor

    @property
    def tokens_per_expert_E(self) -> Tensor:
        """(E,) int32."""
        return self.expert_offsets_E1.diff()

    def mean_weights(self) -> Tensor:
        """(P,) float32: 1 / (number of the token's experts), the paper's weights."""
        return 1 / self.token_offsets_T1.diff().clamp(min=1)[self.token_P].float()

    def at_pairs(self, value_TE: Tensor) -> Tensor:
        """(P,): the value of each pair, differentiable. Each pair is one place, so no gradients are summed."""
        return value_TE.reshape(-1).gather(0, self.token_P * value_TE.shape[1] + self.expert_P)


def permute(
    mask_TE: Tensor,
    *,
    num_pairs: int | None = None,
    counts: tuple[Tensor, Tensor] | None = None,
    backend: str = "auto",
) -> Permutation:
    """Sort the pairs that ``mask_TE`` (T, E) bool holds, without sorting: counts, prefix sums, one write per pair.

    ``num_pairs``: P where the caller knows it (top-k: T * k), so that the triton backend need not wait for the device
    to read it; fewer than the mask holds is an error of the device. ``counts``: what the gate counted already.
    KernelError: the mask is not (T, E) bool.
    """
    if mask_TE.dtype != torch.bool or mask_TE.dim() != 2:
        raise KernelError(
            f"permute: mask_TE is {mask_TE.dtype} of shape {tuple(mask_TE.shape)}; it must be torch.bool of shape "
            "(tokens, experts)."
        )
    if use_triton(backend, mask_TE.device, torch.float32):
        from . import triton_permutation

        block_counts_BE, count_T = counts or (None, None)
        return Permutation(*triton_permutation.permute(mask_TE, num_pairs, block_counts_BE, count_T))
    return Permutation(*reference.permutation(mask_TE))
