"""Gather, grouped SwiGLU MLP and combination against their references, forward and backward."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.cases import LOADS, assert_same, mask_of, outputs_and_gradients, randn, uniform
from timeexpert.kernels.backend import KernelError
from timeexpert.kernels.experts import combine, experts_forward, swiglu_experts
from timeexpert.kernels.permutation import permute

TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def make_inputs(
    T: int, D: int, F: int, E: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """x, gate_up, down and weights of the pairs (T, E), such that outputs are near 1."""
    x, gate_up, down = randn(T, D), randn(E, D, 2 * F, seed=1) / D**0.5, randn(E, F, D, seed=2) * 2 / F**0.5
    return [*(t.to(device, dtype) for t in (x, gate_up, down)), uniform(T, E, seed=3).to(device)]


def check(inputs: list[Tensor], mask: Tensor) -> None:
    """Both backends give the same tokens and the same four gradients."""

    def run(backend: str, x: Tensor, gate_up: Tensor, down: Tensor, weight: Tensor) -> list[Tensor]:
        order = permute(mask.to(x.device), backend=backend)
        return [experts_forward(x, gate_up, down, order, order.at_pairs(weight), backend=backend)]

    got = outputs_and_gradients(lambda *args: run("triton", *args), inputs)
    assert_same(got, outputs_and_gradients(lambda *args: run("torch", *args), inputs), TOLERANCE[inputs[0].dtype])


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_equal_the_reference(load: str, dtype: torch.dtype, device: torch.device) -> None:
    check(make_inputs(37, 40, 36, 5, device, dtype), LOADS[load](37, 5))


@pytest.mark.parametrize(("T", "D", "F", "E"), [(1, 8, 4, 1), (32, 32, 16, 2), (33, 31, 33, 3), (5, 16, 8, 40)])
def test_sizes_on_and_off_the_edges_of_blocks(T: int, D: int, F: int, E: int, device: torch.device) -> None:
    check(make_inputs(T, D, F, E, device), mask_of(T, E, 0.7))


def test_fp16(device: torch.device) -> None:
    check(make_inputs(37, 40, 36, 5, device, torch.float16), mask_of(37, 5))


def test_weights_stored_the_other_way_round_are_used_as_they_are(device: torch.device) -> None:
    x, gate_up, down, weight = make_inputs(37, 40, 36, 5, device)
    turned = [w.transpose(1, 2).contiguous().transpose(1, 2) for w in (gate_up, down)]
    assert not turned[0].is_contiguous()
    check([x, *turned, weight], mask_of(37, 5))


def test_outputs_are_near_one(device: torch.device) -> None:
    x, gate_up, down, _ = make_inputs(37, 40, 36, 5, device)
    std = experts_forward(x, gate_up, down, permute(mask_of(37, 5, 0.6).to(device))).std()
    assert 0.3 < std < 3  # or the tolerances above would mean nothing


def test_rows_that_are_sorted_already_are_not_gathered(device: torch.device) -> None:
    x, gate_up, down, _ = make_inputs(37, 40, 36, 5, device)
    order = permute(mask_of(37, 5).to(device), backend="torch")
    inputs = [x[order.token_P], gate_up, down]

    def run(backend: str, *args: Tensor) -> list[Tensor]:
        return [swiglu_experts(*args, order.expert_offsets_E1, backend=backend)]

    got = outputs_and_gradients(lambda *args: run("triton", *args), inputs)
    assert_same(got, outputs_and_gradients(lambda *args: run("torch", *args), inputs), 1e-5)


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_frozen_parts_get_no_gradient_and_change_no_other(trained: int, device: torch.device) -> None:
    inputs = make_inputs(20, 16, 8, 3, device)[:3]
    order = permute(mask_of(20, 3).to(device))
    grads = []
    for needs in ([True] * 3, [i == trained for i in range(3)]):
        args = [x.clone().requires_grad_(need) for x, need in zip(inputs, needs, strict=True)]
        experts_forward(*args, order).sum().backward()
        grads.append([x.grad for x in args])
    assert torch.equal(grads[0][trained], grads[1][trained])
    assert [g is None for g in grads[1]] == [i != trained for i in range(3)]


def test_nothing_is_kept_where_no_gradient_is_wanted(device: torch.device) -> None:
    from timeexpert.kernels import triton_experts

    x, gate_up, down, _ = make_inputs(20, 16, 8, 3, device)
    order = permute(mask_of(20, 3).to(device))
    args = (x, gate_up, down, order.expert_offsets_E1, order.token_P, order.pair_P, order.token_offsets_T1)
    rows, kept = triton_experts.swiglu_experts(*args, False)
    assert kept.shape == (0, 16) and torch.equal(rows, triton_experts.swiglu_experts(*args, True)[0])


def test_combining_twice_gives_the_same_bits(device: torch.device) -> None:
    order = permute(mask_of(64, 9, 0.8).to(device))
    rows, weight = randn(order.token_P.numel(), 24).to(device), order.mean_weights()
    assert torch.equal(combine(rows, weight, order), combine(rows, weight, order))


def test_a_token_without_experts_gets_zero(device: torch.device) -> None:
    x, gate_up, down, _ = make_inputs(4, 16, 8, 3, device)
    mask = torch.tensor([[True, False, True], [False] * 3, [False, True, False], [False] * 3])
    y = experts_forward(x, gate_up, down, permute(mask.to(device)))
    assert y.any(1).tolist() == [True, False, True, False]


def test_under_autocast_products_are_in_its_type_and_the_output_in_that_of_x(device: torch.device) -> None:
    x, gate_up, down, _ = make_inputs(20, 16, 8, 3, device)
    order = permute(mask_of(20, 3).to(device))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got = experts_forward(x, gate_up, down, order)
    low = [t.bfloat16() for t in (x, gate_up, down)]
    assert got.dtype == torch.float32 and torch.equal(got, experts_forward(*low, order).float())
    assert not torch.equal(got, experts_forward(x, gate_up, down, order))


@pytest.mark.parametrize(
    ("x", "gate_up", "down", "words"),
    [
        ((2, 4), (3, 4, 6), (3, 3, 4), None),
        ((2, 5), (3, 4, 6), (3, 3, 4), "x (2, 5), gate_up (3, 4, 6), down (3, 3, 4) do not fit together"),
        ((2, 4), (3, 4, 7), (3, 3, 4), "do not fit together; they must be (rows, D), (E, D, 2F), (E, F, D)"),
        ((2, 4), (3, 4, 6), (2, 3, 4), "do not fit together"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    x: tuple[int, ...], gate_up: tuple[int, ...], down: tuple[int, ...], words: str | None
) -> None:
    order = permute(torch.ones(2, 3, dtype=torch.bool))
    args = (torch.zeros(x), torch.zeros(gate_up), torch.zeros(down), order)
    if words is None:
        assert experts_forward(*args).shape == x
    else:
        with pytest.raises(KernelError, match=re.escape(words)):
            experts_forward(*args)


def test_types_that_differ_are_refused(device: torch.device) -> None:
    x, gate_up, down, _ = make_inputs(4, 16, 8, 3, device)
    with pytest.raises(KernelError, match="x is torch.bfloat16, gate_up torch.float32, down torch.float32"):
        experts_forward(x.bfloat16(), gate_up, down, permute(mask_of(4, 3).to(device)))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (mask_of(4, 2), "the offsets have shape (3,); for weights of 3 experts it must be (4,). Permute a mask with"),
        (mask_of(5, 3), "the permutation is of 5 tokens, x has 4. Permute the mask of these tokens."),
    ],
)
def test_a_permutation_of_something_else_is_refused(mask: Tensor, words: str, device: torch.device) -> None:
    """The kernels would read past the end of a tensor."""
    x, gate_up, down, _ = make_inputs(4, 16, 8, 3, device)
    with pytest.raises(KernelError, match=re.escape(words)):
        experts_forward(x, gate_up, down, permute(mask.to(device)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="an assertion on a GPU ends the process's use of it")
def test_more_sorted_rows_than_the_experts_have_are_refused() -> None:
    x, gate_up, down, _ = make_inputs(7, 16, 8, 3, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="the last offset is not the number of rows"):
        swiglu_experts(x, gate_up, down, torch.tensor([0, 2, 2, 6], dtype=torch.int32), backend="triton")


@pytest.mark.parametrize(("rows", "weights"), [((2, 8), (3,)), ((3, 8), (2,)), ((3, 8), (3, 1)), ((3,), (3,))])
def test_rows_or_weights_of_other_pairs_are_refused(
    rows: tuple[int, ...], weights: tuple[int, ...], device: torch.device
) -> None:
    order = permute(torch.eye(3, dtype=torch.bool, device=device))
    words = f"rows {rows} and weights {weights} do not fit the permutation's 3 pairs; they must be (pairs, D)"
    with pytest.raises(KernelError, match=re.escape(words)):
        combine(torch.ones(rows, device=device), torch.ones(weights, device=device), order)


def test_the_backward_pass_makes_no_zeros_as_large_as_what_it_kept(device: torch.device) -> None:
    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if "zeros" in str(func):
                made.append(tuple(out.shape))
            return out

    made: list[tuple[int, ...]] = []
    x, gate_up, down, _ = (t.requires_grad_() for t in make_inputs(20, 16, 8, 3, device))
    y = experts_forward(x, gate_up, down, permute(mask_of(20, 3).to(device)), backend="triton")
    with Sizes():
        torch.zeros(1)
        torch.autograd.grad(y, x, torch.ones_like(y))
    assert made == [(1,)]


@pytest.mark.parametrize(
    ("setting", "value", "want"),
    [("allow_tf32", True, "tf32"), ("fp32_precision", "tf32", "tf32"), ("fp32_precision", "ieee", "ieee")],
)
def test_float32_products_are_as_exact_as_torch_is_told_in_either_way(
    setting: str, value: bool | str, want: str
) -> None:
    from timeexpert.kernels.triton_common import precision

    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    try:
        setattr(settings, setting, value)
        assert precision() == want
    finally:
        if setting == "allow_tf32":
            settings.allow_tf32 = False
        settings.fp32_precision = before
