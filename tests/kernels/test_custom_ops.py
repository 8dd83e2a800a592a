"""The kernels as torch operators: what torch checks of them, and whole graphs under torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.kernels.cases import mask_of, randn, uniform
from timeexpert.kernels.experts import experts_forward
from timeexpert.kernels.gate import gate
from timeexpert.kernels.permutation import permute

T, D, F, E = 20, 16, 8, 4


def gate_args(device: torch.device) -> tuple[Tensor, ...]:
    x, weight, threshold = randn(T, D), randn(E, D, seed=1), uniform(E, seed=2) * 0.3
    rates, types, active = uniform(2, E), torch.arange(T) % 2, torch.ones(E, dtype=torch.bool)
    trained = [t.to(device).requires_grad_() for t in (x, weight, threshold)]
    return (*trained, *(t.to(device) for t in (rates, types, active)))


def expert_args(device: torch.device) -> list[Tensor]:
    return [t.to(device).requires_grad_() for t in (randn(T, D), randn(E, D, 2 * F, seed=1), randn(E, F, D, seed=2))]


def passes(op: Any, args: tuple[Any, ...]) -> bool:
    """Schema, fake kernel, gradients and dynamic shapes are as torch wants them."""
    return set(torch.library.opcheck(op, args).values()) == {"SUCCESS"}


def test_gate(device: torch.device) -> None:
    numbers = (torch.tensor(2.0, device=device, requires_grad=True), torch.tensor(0.1, device=device))
    args = (*gate_args(device), *numbers, "top1", "selected")
    assert passes(torch.ops.timeexpert.gate, args)


@pytest.mark.parametrize("num_pairs", [None, T * E])
def test_permute(num_pairs: int | None, device: torch.device) -> None:
    assert passes(torch.ops.timeexpert.permute, (mask_of(T, E).to(device), num_pairs, None, None))


@pytest.mark.parametrize("gathered", [True, False])
def test_swiglu_experts(gathered: bool, device: torch.device) -> None:
    order = permute(mask_of(T, E).to(device))
    x, *weights = expert_args(device)
    way = (order.token_P, order.pair_P, order.token_offsets_T1)
    if not gathered:
        x, way = x.detach()[order.token_P].requires_grad_(), (None, None, None)  # type: ignore[assignment]
    args = (x, *weights, order.expert_offsets_E1, *way, True)
    assert passes(torch.ops.timeexpert.swiglu_experts, args)


def test_combine(device: torch.device) -> None:
    order = permute(mask_of(T, E).to(device))
    rows, weight = randn(order.token_P.numel(), D), uniform(order.token_P.numel())
    trained = (t.to(device).requires_grad_() for t in (rows, weight))
    args = (*trained, order.token_P, order.pair_P, order.token_offsets_T1)
    assert passes(torch.ops.timeexpert.combine, args)


@pytest.mark.parametrize("known", [True, False])
def test_a_whole_mixture_compiles_into_one_graph(known: bool, device: torch.device) -> None:
    """Gate, permutation, experts, combination: with P known beforehand, and with P only known while it runs."""
    trained = [*gate_args(device)[:3], *expert_args(device)[1:]]
    rest = gate_args(device)[3:]
    active_pairs = T * E if known else None

    def mixture(x: Tensor, weight: Tensor, threshold: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        out = gate(x, weight, threshold, *rest, scale=2.0, alpha=0.1)
        order = permute(out.mask_TE, num_pairs=active_pairs, counts=out.counts)
        return experts_forward(x, gate_up, down, order, out.pair_weights(order))

    compiled = torch.compile(mixture, backend="aot_eager", fullgraph=True)
    want, got = mixture(*trained), compiled(*trained)
    assert_close(got, want)
    up = randn(T, D, seed=9).to(device)
    assert_close(torch.autograd.grad(got, trained, up), torch.autograd.grad(want, trained, up))
