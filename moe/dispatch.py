"""Who computes a rank's routed pairs: itself, or the ranks that hold the experts (expert parallelism).

T tokens, P routed pairs of this rank, R pairs that this rank computes for all, D model dim, N ranks,
L experts of one rank (E = N * L slots).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from timeexpert.timing import Stopwatch

from .experts import Experts
from .gate import Pairs


class Dispatch(Protocol):
    """``y_TD``: each token's weighted sum over its experts, wherever they are."""

    def __call__(self, experts: Experts, x_TD: Tensor, pairs: Pairs) -> Tensor: ...


class LocalDispatch:
    """Every expert is here."""

    def __call__(self, experts: Experts, x_TD: Tensor, pairs: Pairs) -> Tensor:
        """See :class:`Dispatch`."""
        return experts(x_TD, pairs)


class AllToAllDispatch:
    """Rank n of ``group`` holds experts n * L to (n + 1) * L - 1; rows travel there and back.

    Any number of experts per token, any number of rows per rank, none included. A row travels in autocast's type,
    as it would be multiplied, and its combination weight with it, so that a rank sends back what is added up as it is.
    Gradients travel the other way. Every rank of the group calls it as often as the others, in the same order.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def __call__(self, experts: Experts, x_TD: Tensor, pairs: Pairs) -> Tensor:
        """See :class:`Dispatch`."""
        ranks = self.group.size()
        counts_NL = pairs.tokens_per_expert_E.view(ranks, -1)
        received_NL = torch.empty_like(counts_NL)  # of my experts, by the rank that asks
        dist.all_to_all_single(received_NL, counts_NL.contiguous(), group=self.group)
        here, there = counts_NL.sum(1).tolist(), received_NL.sum(1).tolist()
        device = x_TD.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_TD.dtype
        # pairs are sorted by expert, hence by rank
        x_RD = self._send(x_TD.to(kind).index_select(0, pairs.token_P), here, there)
        weight_R = self._send(pairs.weight_P, here, there)
        y_RD = experts(x_RD, received_pairs(received_NL, weight_R))
        y_PD = self._send(y_RD, there, here)
        y_TD = torch.zeros_like(x_TD, dtype=torch.promote_types(x_TD.dtype, torch.float32))
        return y_TD.index_add(0, pairs.token_P, y_PD.to(y_TD.dtype)).to(x_TD.dtype)

    def _send(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        exchanged: Tensor = _Exchange.apply(rows, sent, received, self.group)
        return exchanged


def received_pairs(received_NL: Tensor, weight_R: Tensor) -> Pairs:
    """The pairs of rows that came in by rank, then expert: ``Pairs`` of R tokens with one of L experts each."""
    experts = torch.arange(received_NL.shape[1], device=received_NL.device)
    expert_R = experts.repeat(received_NL.shape[0]).repeat_interleave(received_NL.flatten())
    sorted_R, token_R = expert_R.sort(stable=True)
    return Pairs(token_R, sorted_R, weight_R[token_R], F.one_hot(expert_R, len(experts)).bool())


class _Exchange(torch.autograd.Function):
    """``all_to_all_single`` of rows with uneven splits; gradients take the way back.

    Not torch's functional collective: issued from the thread of autograd it aborted one run in four at the end.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.splits = sent, received, group
        return _exchange(rows, sent, received, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        sent, received, group = ctx.splits
        return _exchange(grads[0], received, sent, group), None, None, None


class Exchanged:
    """What this process has sent to other ranks' experts, and how long it took, waiting for them included."""

    def __init__(self) -> None:
        self.watch, self.bytes = Stopwatch(), 0

    def take(self) -> tuple[float, int]:
        """Seconds and bytes since the last call."""
        sent, self.bytes = self.bytes, 0
        return self.watch.take(), sent


EXCHANGED = Exchanged()


def _exchange(rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    out = rows.new_empty(sum(received), *rows.shape[1:])
    with EXCHANGED.watch.running(rows.is_cuda):
        dist.all_to_all_single(out, rows.contiguous(), received, sent, group=group)
    others = sum(sent) - sent[dist.get_rank(group)]
    EXCHANGED.bytes += others * math.prod(rows.shape[1:]) * rows.element_size()
    return out
