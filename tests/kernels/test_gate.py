"""The gate's kernel against its reference: decisions, counts and every gradient."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.kernels.cases import assert_same, outputs_and_gradients, randn, uniform
from timeexpert.kernels.backend import KernelError
from timeexpert.kernels.gate import GateOutput, gate

TYPES = 3


def run(inputs: list[Tensor], backend: str, **settings: object) -> GateOutput:
    """x, weight, threshold and scale -> the gate's output; rates, types and who is active are fixed."""
    x, weight, threshold, scale = inputs
    T, E = x.shape[0], weight.shape[0]
    rates, types = uniform(TYPES, E, seed=11).to(x.device), (torch.arange(T) % TYPES).to(x.device)
    active = (torch.arange(E) % 7 != 3).to(x.device)
    settings = {"alpha": 0.3, **settings}
    return gate(x, weight, threshold, rates, types, active, scale=scale, backend=backend, **settings)  # type: ignore[arg-type]


def make_inputs(T: int, D: int, E: int, device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    inputs = [randn(T, D, dtype=dtype), randn(E, D, seed=1), uniform(E, seed=2) * 0.5 + 0.2, torch.tensor([2.0])]
    return [x.to(device) for x in inputs]


def check(inputs: list[Tensor], tolerance: float = 1e-5, **settings: object) -> GateOutput:
    """Both backends agree; returns what the reference decided."""
    want = run(inputs, "torch", **settings)
    assert (want.task_TE - inputs[2].float()).abs().min() > 1e-6, (
        "a pair on the threshold: rounding decides it; take another seed"
    )
    got = run(inputs, "triton", **settings)
    for name in ("mask_TE", "fallback_T", "gate_TE"):
        a, b = getattr(got, name), getattr(want, name)
        assert a.dtype == b.dtype and torch.equal(a, b), name
    assert_close(got.flipped_T, want.flipped_T)
    assert got.tokens_per_expert_E.tolist() == want.mask_TE.sum(0).tolist()

    def values(backend: str, *inputs: Tensor) -> list[Tensor]:
        out = run(list(inputs), backend, **settings)
        weight_P = out.pair_weights(out.permute(backend=backend))
        return [out.score_TE, out.task_TE, out.gate_TE, weight_P]

    assert_same(
        outputs_and_gradients(lambda *args: values("triton", *args), inputs),
        outputs_and_gradients(lambda *args: values("torch", *args), inputs),
        tolerance,
    )
    return want


@pytest.mark.parametrize("fallback", ["least_utilised", "top1", "skip"])
@pytest.mark.parametrize("reach", ["selected", "all"])
def test_it_equals_the_reference(fallback: str, reach: str, device: torch.device) -> None:
    out = check(make_inputs(130, 50, 20, device), fallback=fallback, straight_through=reach)
    assert out.fallback_T.any() and not out.fallback_T.all() and out.flipped_T.any()


@pytest.mark.parametrize(("T", "D", "E"), [(1, 16, 1), (64, 32, 16), (65, 33, 17), (40, 7, 3)])
def test_sizes_that_are_no_multiple_of_a_block(T: int, D: int, E: int, device: torch.device) -> None:
    check(make_inputs(T, D, E, device))


def test_tokens_in_bf16_are_multiplied_as_exactly_as_in_float32(device: torch.device) -> None:
    inputs = make_inputs(130, 50, 20, device, torch.bfloat16)
    exact = run([x.double() for x in inputs], "torch")
    got = run(inputs, "triton")
    assert torch.equal(got.mask_TE, exact.mask_TE)
    assert (got.score_TE - exact.score_TE).abs().max() < 1e-6  # bf16 weights would be off by 1e-3
    check(inputs, 0.01)


def test_a_model_in_bf16_computes_its_gate_in_float32(device: torch.device) -> None:
    inputs = make_inputs(70, 40, 9, device, torch.bfloat16)
    check([x.bfloat16() for x in inputs[:3]] + inputs[3:], 0.01)


def test_tokens_in_fp16(device: torch.device) -> None:
    check(make_inputs(70, 40, 9, device, torch.float16), 0.002)


def test_only_what_is_trained_gets_a_gradient(device: torch.device) -> None:
    x, weight, threshold, scale = make_inputs(70, 40, 9, device)
    out = run([x, weight.requires_grad_(), threshold, scale], "triton")
    (out.gate_TE * randn(70, 9).to(device)).sum().backward()
    assert weight.grad is not None and weight.grad.any()
    assert x.grad is None and threshold.grad is None


def test_a_token_of_zeros_is_no_division_by_zero(device: torch.device) -> None:
    inputs = make_inputs(70, 40, 9, device)
    inputs[0][5] = 0
    out = check(inputs)
    assert not out.score_TE[5].any()


def test_a_token_that_is_not_a_number_falls_back_to_an_active_expert(device: torch.device) -> None:
    inputs = make_inputs(10, 40, 9, device)
    inputs[0][5] = float("nan")
    out = run(inputs, "triton")
    assert out.fallback_T[5] and out.mask_TE[5].tolist() == [True] + [False] * 8
    assert torch.equal(out.mask_TE[:5], run(inputs, "torch").mask_TE[:5])


def test_no_tokens_are_routed_nowhere(device: torch.device) -> None:
    out = run(make_inputs(0, 16, 4, device), "triton")
    assert out.mask_TE.shape == (0, 4) and out.tokens_per_expert_E.tolist() == [0] * 4
    assert out.permute(backend="triton").token_P.numel() == 0


def test_more_experts_than_registers_hold_are_left_to_torch(device: torch.device) -> None:
    inputs = make_inputs(3, 16, 257, device)
    assert torch.equal(run(inputs, "auto").mask_TE, run(inputs, "torch").mask_TE)
    with pytest.raises(KernelError, match="257 expert slots; the triton kernel takes up to 256"):
        run(inputs, "triton")


GOOD = {
    "x_TD": torch.zeros(2, 4),
    "weight_ED": torch.zeros(3, 4),
    "threshold_E": torch.zeros(3),
    "rates_AE": torch.zeros(1, 3),
    "type_T": torch.zeros(2, dtype=torch.int64),
    "active_E": torch.ones(3, dtype=torch.bool),
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fallback": "best"}, "fallback ('best') must be one of least_utilised, top1, skip"),
        ({"straight_through": "none"}, "straight_through ('none') must be one of selected, all"),
        ({"x_TD": torch.zeros(2, 5)}, "x (2, 5) and weight (3, 4) do not fit together"),
        ({"threshold_E": torch.zeros(2)}, "threshold has shape (2,); for these x and weight it must be (3,)"),
        ({"rates_AE": torch.zeros(3, 1)}, "rates has shape (1,); for these x and weight it must be (3,)"),
        ({"type_T": torch.zeros(3, dtype=torch.int64)}, "type has shape (3,); for these x and weight it must be (2,)"),
        ({"scale": torch.ones(2)}, "scale has shape (2,) and alpha (); each must be one number"),
        ({"type_T": torch.zeros(2)}, "type is torch.float32 and active torch.bool; they must be torch.int64"),
    ],
)
def test_impossible_requests_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(KernelError, match=re.escape(words)):
        gate(**{**GOOD, **change})  # type: ignore[arg-type]


def test_an_output_says_how_many_tokens_each_expert_got_with_or_without_counts(device: torch.device) -> None:
    out = run(make_inputs(70, 16, 5, device), "triton")
    assert out.tokens_per_expert_E.tolist() == replace(out, counts=None).tokens_per_expert_E.tolist()


@pytest.mark.skipif(torch.cuda.is_available(), reason="an assertion on a GPU ends the process's use of it")
@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_type_that_is_none_is_refused(wrong: int) -> None:
    types = torch.tensor([0] * 69 + [wrong])
    with pytest.raises(RuntimeError, match=r"a token's type is not in \[0, 1\)"):
        gate(**{**GOOD, "x_TD": torch.ones(70, 4), "type_T": types}, backend="triton")  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("fallback", ["least_utilised", "top1"])
def test_without_an_active_expert_nobody_computes(backend: str, fallback: str, device: torch.device) -> None:
    args = {**GOOD, "active_E": torch.zeros(3, dtype=torch.bool)}
    out = gate(**{k: v.to(device) for k, v in args.items()}, fallback=fallback, backend=backend)  # type: ignore[arg-type]
    assert out.fallback_T.all() and not out.mask_TE.any()
