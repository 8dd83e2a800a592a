"""Every backend of the experts equals the loop over experts, in outputs and in every gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from tests.kernels.cases import LOADS, assert_same, mask_of
from timeexpert.kernels import backend as kernels_backend
from timeexpert.moe import Experts, Routing
from timeexpert.moe import experts as layer
from timeexpert.moe import fused_experts as fused
from timeexpert.moe.experts import ExpertsError, SharedExperts, can_use_grouped_mm

T, D, WIDTH, E = 37, 16, 8, 5
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def make_experts(
    backend: str = "auto", model_dim: int = D, expert_dim: int = WIDTH, dtype: torch.dtype = torch.float32
) -> Experts:
    torch.manual_seed(0)
    experts = Experts(E, model_dim, expert_dim, backend)
    torch.nn.init.normal_(experts.gate_up_proj, std=model_dim**-0.5)
    torch.nn.init.normal_(experts.down_proj, std=expert_dim**-0.5)
    return experts.to(dtype)


def routing_of(mask_TE: Tensor, weight_TE: Tensor) -> Routing:
    """What a gate would hand to the experts; they read nothing else of it."""
    expert_P, token_P = mask_TE.t().nonzero(as_tuple=True)
    nothing = torch.zeros(0)
    weight_P = weight_TE[token_P, expert_P]
    return Routing(token_P, expert_P, weight_P, mask_TE, weight_TE, weight_TE, nothing, nothing, nothing)


def inputs_of(load: str = "uneven", model_dim: int = D, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Tokens, who computes them, and the weights of the pairs."""
    torch.manual_seed(1)
    return torch.randn(T, model_dim).to(dtype), LOADS[load](T, E), torch.rand(T, E)


def gradient_of(y: Tensor) -> Tensor:
    """Numbers that every type holds exactly."""
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).bfloat16().to(y.dtype)


def outputs_and_gradients(experts: Experts, x: Tensor, mask: Tensor, weight: Tensor, **autocast: Any) -> list[Tensor]:
    """y, and the gradients of tokens, weights of the pairs and both weights of the experts."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    with torch.autocast("cpu", enabled=bool(autocast), **autocast):
        y = experts(x, routing_of(mask, weight))
    d_y = gradient_of(y)
    wanted = (x, weight, experts.gate_up_proj, experts.down_proj)
    return [y.detach(), *torch.autograd.grad(y, wanted, d_y)]


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_fused_experts_equal_the_loop(load: str, dtype: torch.dtype):
    inputs = inputs_of(load, dtype=dtype)
    got, want = (outputs_and_gradients(make_experts(backend, dtype=dtype), *inputs) for backend in ("fused", "loop"))
    assert [t.dtype for t in got] == [t.dtype for t in want]
    # the weights of the pairs are in float32 whatever the experts are in
    for ours, theirs in zip(got, want, strict=True):
        assert_same([ours], [theirs], max(TOLERANCE[dtype], 1e-6 if ours.dtype == torch.float32 else 0))


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("small_bytes", [0, layer.SMALL_BYTES])
def test_few_tokens_equal_the_loop_with_small_experts_and_with_large_ones(
    load: str, dtype: torch.dtype, small_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(layer, "SMALL_BYTES", small_bytes)
    x, mask, weight = (tensor[: fused.FEW_TOKENS] for tensor in inputs_of(load, dtype=dtype))
    with torch.no_grad():
        got, want = (make_experts(name, dtype=dtype)(x, routing_of(mask, weight)) for name in ("fused", "loop"))
    assert got.dtype == want.dtype
    assert_same([got], [want], TOLERANCE[dtype])


@pytest.mark.parametrize("small_bytes", [0, layer.SMALL_BYTES])
def test_few_tokens_are_computed_to_the_same_bits_whoever_is_beside_them(
    small_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(layer, "SMALL_BYTES", small_bytes)
    experts, (x, mask, weight) = make_experts(model_dim=64, expert_dim=48), inputs_of("uneven", model_dim=64)
    few = fused.FEW_TOKENS
    with torch.no_grad():
        want = experts(x[:few], routing_of(mask[:few], weight[:few]))[0]
        for place in range(few):
            order = torch.randperm(T - 1)[: few - 1] + 1  # other neighbours
            order = torch.cat([order[:place], torch.tensor([0]), order[place:]])
            assert experts(x[order], routing_of(mask[order], weight[order]))[place].equal(want)


@pytest.mark.parametrize("load", LOADS)
def test_grouped_mm_equals_the_loop(load: str):
    inputs = inputs_of(load)
    got, want = (outputs_and_gradients(make_experts(backend), *inputs) for backend in ("grouped_mm", "loop"))
    assert_same(got, want, 1e-5)


@pytest.mark.parametrize("load", ["uneven", "some_empty", "nobody"])
def test_triton_equals_the_loop(load: str, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton")
    from tests.kernels.conftest import DEVICE  # imports our kernels for the interpreter where there is no GPU

    monkeypatch.setenv("TRITON_INTERPRET", str(int(DEVICE.type == "cpu")))
    inputs = [t.to(DEVICE) for t in inputs_of(load)]
    got, want = (outputs_and_gradients(make_experts(name).to(DEVICE), *inputs) for name in ("triton", "loop"))
    assert_same(got, want, 1e-5)


def test_an_expert_is_a_swiglu():
    x, experts = torch.randn(3, D), make_experts()
    weight = torch.tensor([[0.0, 2.0, 0, 0, 0], [1, 0, 0, 0, 3], [0, 0, 0, 0, 0]])

    def mlp(token: Tensor, e: int) -> Tensor:
        gate, up = (token @ experts.gate_up_proj[e]).chunk(2, -1)
        return (F.silu(gate) * up) @ experts.down_proj[e]

    want = [2 * mlp(x[0], 1), mlp(x[1], 0) + 3 * mlp(x[1], 4), torch.zeros(D)]
    assert_close(experts(x, routing_of(weight > 0, weight)), torch.stack(want))


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("instructions", [True, False])
def test_bf16_with_and_without_instructions_for_it(load: str, instructions: bool, monkeypatch: pytest.MonkeyPatch):
    """Without, products are made in float32, and what comes out is rounded once."""
    monkeypatch.setattr(fused, "_has_one_of", lambda flags: instructions)
    experts, inputs = make_experts("fused", dtype=torch.bfloat16), inputs_of(load, dtype=torch.bfloat16)
    assert fused.product_type(inputs[0]) == (torch.bfloat16 if instructions else torch.float32)
    want = outputs_and_gradients(make_experts("loop", dtype=torch.bfloat16).double(), inputs[0].double(), *inputs[1:])
    got = outputs_and_gradients(experts, *inputs)
    for a, b in zip(got, want, strict=True):
        error = float((a.double() - b).norm())
        assert error <= (2e-2 if instructions else 2**-9) * float(b.norm())


def test_shared_experts_without_bf16_instructions(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    shared, x = SharedExperts(D, WIDTH).to(torch.bfloat16), torch.randn(2, T, D).to(torch.bfloat16)
    want = copy.deepcopy(shared).double()(x.double())
    monkeypatch.setattr(fused, "_has_one_of", lambda flags: False)
    got = shared(x)
    assert got.dtype == torch.bfloat16
    assert_close(got.double(), want, atol=0, rtol=2**-8)  # one rounding
    got.sum().backward()
    assert all(parameter.grad.dtype == torch.bfloat16 for parameter in shared.parameters())


@pytest.mark.parametrize("backend", ["fused", "grouped_mm", "loop"])
def test_an_expert_without_tokens_has_gradients_of_exactly_zero(backend: str):
    x, mask, weight = inputs_of("some_empty")
    empty = ~mask.any(0)
    assert 0 < empty.sum() < E
    _, _, _, d_gate_up, d_down = outputs_and_gradients(make_experts(backend), x, mask, weight)
    for gradient in (d_gate_up, d_down):
        assert gradient[empty].count_nonzero() == 0
        assert (gradient[~empty].flatten(1).count_nonzero(dim=1) > 0).all()


def test_fused_gradients_are_those_of_finite_differences():
    mask = mask_of(6, E)
    mask[:, 2] = False
    x, weight = torch.randn(6, 4, dtype=torch.float64), torch.rand(6, E, dtype=torch.float64)
    experts = make_experts("fused", 4, 3, torch.float64)
    values = [t.detach().clone().requires_grad_() for t in (x, weight, experts.gate_up_proj, experts.down_proj)]

    def function(x: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        parameters = {"gate_up_proj": gate_up, "down_proj": down}
        return torch.func.functional_call(experts, parameters, (x, routing_of(mask, weight)))

    assert torch.autograd.gradcheck(function, values)


@pytest.mark.parametrize("trained", [(0,), (1,), (2,), (3,), (0, 1), (2, 3)])
def test_what_is_frozen_gets_no_gradient_and_the_rest_gets_the_same(trained: tuple[int, ...]):
    x, mask, weight = inputs_of()
    experts = make_experts("fused")
    want = outputs_and_gradients(experts, x, mask, weight)
    tensors = [x, weight, experts.gate_up_proj, experts.down_proj]
    for i, tensor in enumerate(tensors):
        tensor.requires_grad_(i in trained)
    y = experts(x, routing_of(mask, weight))
    y.backward(gradient_of(y))
    for i, (tensor, gradient) in enumerate(zip(tensors, want[1:], strict=True)):
        if i in trained:
            assert_close(tensor.grad, gradient)
        else:
            assert tensor.grad is None


def test_outputs_are_the_same_with_and_without_gradients():
    x, mask, weight = inputs_of()
    experts = make_experts("fused")
    with torch.no_grad():
        y = experts(x, routing_of(mask, weight))
    assert torch.equal(y, experts(x, routing_of(mask, weight)))


@pytest.mark.parametrize("backend", ["fused", "grouped_mm", "loop"])
def test_experts_follow_autocast_and_answer_in_the_type_of_the_tokens(backend: str):
    inputs = inputs_of()
    got = outputs_and_gradients(make_experts(backend), *inputs, dtype=torch.bfloat16)
    want = outputs_and_gradients(make_experts("loop"), *inputs)
    assert {t.dtype for t in got} == {torch.float32}
    assert_same(got, want, 2e-2)
    assert not torch.allclose(got[0], want[0], atol=1e-5)  # the products did run in bf16


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_bit(use_reentrant: bool):
    x, mask, weight = inputs_of()
    results = []
    for recompute in (False, True):
        experts, tokens = make_experts("fused"), x.clone().requires_grad_()
        routing = routing_of(mask, weight)
        y = checkpoint(experts, tokens, routing, use_reentrant=use_reentrant) if recompute else experts(tokens, routing)
        y.square().sum().backward()
        results.append([y, tokens.grad, experts.gate_up_proj.grad, experts.down_proj.grad])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_second_derivative_is_an_error():
    x, mask, weight = inputs_of()
    x.requires_grad_()
    (d_x,) = torch.autograd.grad(
        make_experts("fused")(x, routing_of(mask, weight)).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_x.sum().backward()


def test_sums_over_experts_in_bf16_are_rounded_once():
    # 1 + 64 times 1/256: in bf16 each addend alone is less than half a step of the sum
    experts = Experts(65, 1, 1)
    for parameter in (experts.gate_up_proj, experts.down_proj):
        parameter.data.fill_(1.0)
    x = torch.ones(1, 1, dtype=torch.bfloat16)
    weight = torch.full((1, 65), 1 / 256)
    weight[0, 0] = 1.0
    y = experts.bfloat16()(x, routing_of(weight > 0, weight))
    one = F.silu(torch.ones(1)).item()
    assert y.item() == pytest.approx(1.25 * one, rel=5e-3)


@pytest.mark.parametrize(("model_dim", "expert_dim"), [(15, 8), (16, 7), (16, 6)])  # 6: only the inner rows are odd
def test_grouped_mm_where_it_cannot_be_is_an_error(model_dim: int, expert_dim: int):
    experts = make_experts("grouped_mm", model_dim, expert_dim)
    x, mask, weight = inputs_of(model_dim=model_dim)
    assert not can_use_grouped_mm(x, experts.gate_up_proj, experts.down_proj)
    words = rf"moe.backend is 'grouped_mm'.*torch.float32.*\(5, {expert_dim}, {model_dim}\).*cpu.*multiples of 8"
    with pytest.raises(ExpertsError, match=words):
        experts(x, routing_of(mask, weight))


def test_triton_where_it_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels_backend, "find_spec", lambda name: None)
    x, mask, weight = inputs_of()
    words = r"moe.backend \('triton'\) cannot run here; set it to 'auto'.*not installed. Install the extra 'triton'"
    with pytest.raises(ExpertsError, match=words):
        make_experts("triton")(x, routing_of(mask, weight))


def test_shared_experts_are_one_swiglu_of_their_summed_width():
    shared = SharedExperts(16, 2 * 8)
    x = torch.randn(2, 3, 16)
    want = (F.silu(x @ shared.gate_proj.weight.t()) * (x @ shared.up_proj.weight.t())) @ shared.down_proj.weight.t()
    assert_close(shared(x), want)
