"""Inputs and comparisons that the tests of the kernels share: small in the interpreter, large on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.testing import assert_close


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def mask_of(tokens: int, experts: int, share: float = 0.3, seed: int = 0) -> Tensor:
    return uniform(tokens, experts, seed=seed) < share


def uneven(tokens: int, experts: int) -> Tensor:
    """From none of the tokens to nearly all of them, by expert."""
    return uniform(tokens, experts) < torch.linspace(0, 0.9, experts)


def some_empty(tokens: int, experts: int) -> Tensor:
    return mask_of(tokens, experts) & (torch.arange(experts) % 3 == 1)


def one_expert(tokens: int, experts: int) -> Tensor:
    return (torch.arange(experts) == experts // 2).expand(tokens, experts)


def all_experts(tokens: int, experts: int) -> Tensor:
    return torch.ones(tokens, experts, dtype=torch.bool)


def nobody(tokens: int, experts: int) -> Tensor:
    return torch.zeros(tokens, experts, dtype=torch.bool)


LOADS: dict[str, Callable[[int, int], Tensor]] = {
    load.__name__: load for load in (uneven, some_empty, one_expert, all_experts, nobody)
}


def outputs_and_gradients(function: Callable[..., list[Tensor]], inputs: list[Tensor]) -> list[Tensor]:
    """What ``function`` returns, and the gradients of its inputs for fixed random gradients of its outputs."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]  # clone keeps the strides
    outputs = function(*inputs)
    grads = [randn(*y.shape, seed=7 + i).to(y) for i, y in enumerate(outputs)]
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, inputs, grads)]


def assert_same(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    """Each tensor within ``tolerance`` of the other's scale, measured as the length of the difference."""
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype, (i, a.shape, b.shape, a.dtype, b.dtype)
        a, b = a.double(), b.double()
        error = float((a - b).norm() / b.norm().clamp(min=1e-6))
        assert error <= tolerance, f"tensor {i}: relative error {error:.3g}"
        if tolerance <= 1e-5:
            assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max().clamp(min=1.0)))
