"""Every address that a kernel reads or writes, and every value it leaves unwritten, looked at in the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kernels.cases import LOADS, assert_same, mask_of, outputs_and_gradients, randn, uniform
from timeexpert.kernels.experts import combine, experts_forward, swiglu_experts
from timeexpert.kernels.gate import gate
from timeexpert.kernels.permutation import permute


@pytest.fixture(autouse=True)
def watched_memory(kernels_can_run: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loads and stores stay inside the launch's tensors; memory that nobody wrote is NaN, or an impossible index."""
    if torch.cuda.is_available():
        pytest.skip("addresses are looked at in the interpreter, on a CPU")
    from triton.runtime import interpreter

    arguments = interpreter.GridExecutor._init_args_hst
    builder = interpreter.InterpreterBuilder
    masked_load, masked_store = builder.create_masked_load, builder.create_masked_store
    spans: list[tuple[int, int]] = []

    def begin(self: Any, *args: Any) -> Any:
        host, named = arguments(self, *args)
        tensors = [t for t in (*host, *named.values()) if isinstance(t, Tensor) and t.numel()]
        spans[:] = [(t.data_ptr(), t.data_ptr() + extent(t)) for t in tensors]
        return host, named

    def look(pointers: Any, mask: Any) -> None:
        used = np.broadcast_to(pointers.data, mask.data.shape)[mask.data].astype(np.int64)
        inside = np.zeros(used.shape, dtype=bool)
        for start, end in spans:
            inside |= (used >= start) & (used < end)
        assert inside.all(), f"{(~inside).sum()} of {inside.size} addresses are in no tensor of the launch"

    def load(self: Any, pointers: Any, mask: Any, *args: Any) -> Any:
        look(pointers, mask)
        return masked_load(self, pointers, mask, *args)

    def store(self: Any, pointers: Any, value: Any, mask: Any, *args: Any) -> Any:
        look(pointers, mask)
        return masked_store(self, pointers, value, mask, *args)

    monkeypatch.setattr(interpreter.GridExecutor, "_init_args_hst", begin)
    monkeypatch.setattr(builder, "create_masked_load", load)
    monkeypatch.setattr(builder, "create_masked_store", store)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives, too
    yield
    torch.use_deterministic_algorithms(False)


def extent(tensor: Tensor) -> int:
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def assert_finite(function: Callable[..., list[Tensor]], inputs: list[Tensor]) -> None:
    for value in outputs_and_gradients(function, inputs):
        assert value.isfinite().all()


def experts(D: int, F: int, E: int) -> list[Tensor]:
    return [randn(E, D, 2 * F, seed=1) / D**0.5, randn(E, F, D, seed=2) / F**0.5]


def test_what_nobody_wrote_and_what_lies_outside_are_noticed() -> None:
    """The watch itself: a count that is larger than the rows sends a kernel past them."""
    assert torch.empty(3).isnan().all()
    order = permute(mask_of(20, 4), backend="triton")
    from timeexpert.kernels import triton_gemm

    rows, (gate_up, _) = randn(order.token_P.numel(), 16), experts(16, 8, 4)
    with pytest.raises(Exception, match="addresses are in no tensor of the launch"):
        triton_gemm.rows_times_weight(rows, gate_up, order.expert_offsets_E1 * 50, None)


@pytest.mark.parametrize(
    ("load", "T", "D", "F", "E"),
    [
        ("all_experts", 1, 7, 3, 1),
        ("uneven", 23, 33, 17, 5),
        ("some_empty", 20, 32, 16, 6),
        ("one_expert", 33, 8, 4, 3),
        ("nobody", 5, 16, 8, 3),
    ],
)
def test_experts(load: str, T: int, D: int, F: int, E: int) -> None:
    order = permute(LOADS[load](T, E), backend="triton")

    def run(x: Tensor, gate_up: Tensor, down: Tensor, weight: Tensor) -> list[Tensor]:
        return [experts_forward(x, gate_up, down, order, order.at_pairs(weight), backend="triton")]

    assert_finite(run, [randn(T, D), *experts(D, F, E), uniform(T, E, seed=3)])


def test_experts_of_fewer_pairs_than_there_is_room_for() -> None:
    order = permute(mask_of(20, 4), num_pairs=80, backend="triton")
    assert int(order.expert_offsets_E1[-1]) < 80

    def run(x: Tensor, gate_up: Tensor, down: Tensor, weight: Tensor) -> list[Tensor]:
        return [experts_forward(x, gate_up, down, order, order.at_pairs(weight), backend="triton")]

    assert_finite(run, [randn(20, 16), *experts(16, 8, 4), uniform(20, 4, seed=3)])


def test_rows_that_are_sorted_already() -> None:
    order = permute(mask_of(23, 5), backend="triton")

    def run(x: Tensor, gate_up: Tensor, down: Tensor) -> list[Tensor]:
        return [swiglu_experts(x, gate_up, down, order.expert_offsets_E1, backend="triton")]

    assert_finite(run, [randn(order.token_P.numel(), 33), *experts(33, 17, 5)])


def test_no_tokens() -> None:
    order = permute(torch.zeros(0, 4, dtype=torch.bool), backend="triton")

    def run(x: Tensor, gate_up: Tensor, down: Tensor) -> list[Tensor]:
        return [experts_forward(x, gate_up, down, order, backend="triton")]

    assert_finite(run, [randn(0, 16), *experts(16, 8, 4)])


def test_tensors_that_are_not_contiguous() -> None:
    """Every second row and column of something larger, for all that may be given so."""
    order = permute(mask_of(30, 6, 0.5)[::2, ::2], backend="triton")

    def run(backend: str, x: Tensor, gate_up: Tensor, down: Tensor, weight: Tensor) -> list[Tensor]:
        rows = swiglu_experts(x[::2, ::2], gate_up[::2, ::2, ::2], down[::2, ::2, ::2], order, backend=backend)
        apart = torch.stack([rows, -rows], 2)[:, :, 0]
        weight_P = order.at_pairs(weight[::2, ::2])
        return [combine(apart, torch.stack([weight_P, -weight_P], 1)[:, 0], order, backend=backend)]

    inputs = [randn(30, 32), *experts(32, 16, 6), uniform(30, 6, seed=3)]
    got = outputs_and_gradients(lambda *args: run("triton", *args), inputs)
    assert_same(got, outputs_and_gradients(lambda *args: run("torch", *args), inputs), 1e-5)


@pytest.mark.parametrize("fallback", ["least_utilised", "top1", "skip"])
@pytest.mark.parametrize(("T", "D", "E"), [(1, 7, 1), (70, 33, 18)])
def test_gate(T: int, D: int, E: int, fallback: str) -> None:
    rates, types = uniform(3, E, seed=3), torch.arange(T) % 3
    active = torch.arange(E) % 5 != 3

    def run(x: Tensor, weight: Tensor, threshold: Tensor, scale: Tensor) -> list[Tensor]:
        out = gate(
            x, weight, threshold, rates, types, active, scale=scale, alpha=0.3, fallback=fallback, backend="triton"
        )  # type: ignore[arg-type]
        order = out.permute(backend="triton")
        return [out.score_TE, out.task_TE, out.gate_TE, out.pair_weights(order)]

    assert_finite(run, [randn(T, D), randn(E, D, seed=1), uniform(E, seed=2), torch.tensor(2.0)])
