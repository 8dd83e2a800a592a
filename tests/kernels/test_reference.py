"""The references against slower readings still: loops over tokens in float64, and the gate of the model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.kernels.cases import LOADS, mask_of, outputs_and_gradients, randn, uniform
from timeexpert.kernels import reference
from timeexpert.kernels.experts import combine, experts_forward, swiglu_experts
from timeexpert.kernels.gate import gate
from timeexpert.kernels.permutation import permute
from timeexpert.moe import Gate, MoEConfig

F64 = torch.float64


def loop_over_tokens(x: Tensor, gate_up: Tensor, down: Tensor, weight: Tensor, mask: Tensor) -> list[Tensor]:
    """y_t = sum over its experts of weight * down(silu(gate(x)) * up(x)), one token and one expert at a time."""
    rows = []
    for t in range(len(x)):
        y = 0 * (x[t] + gate_up.sum() + down.sum() + weight.sum())  # a token without experts depends on all of them too
        for e in mask[t].nonzero()[:, 0].tolist():
            g, u = (x[t] @ gate_up[e]).chunk(2)
            y = y + weight[t, e] * ((g / (1 + (-g).exp()) * u) @ down[e])
        rows.append(y)
    return [torch.stack(rows)]


@pytest.mark.parametrize("load", LOADS)
def test_experts_equal_a_loop_over_tokens_in_float64(load: str) -> None:
    mask = LOADS[load](13, 5)
    inputs = [
        randn(13, 8, dtype=F64),
        randn(5, 8, 12, seed=1, dtype=F64),
        randn(5, 6, 8, seed=2, dtype=F64),
        uniform(13, 5, seed=3).to(F64),
    ]

    def ours(x: Tensor, gate_up: Tensor, down: Tensor, weight: Tensor) -> list[Tensor]:
        order = permute(mask)
        return [experts_forward(x, gate_up, down, order, order.at_pairs(weight), backend="torch")]

    want = outputs_and_gradients(lambda *args: loop_over_tokens(*args, mask), inputs)
    assert_close(outputs_and_gradients(ours, inputs), want, atol=1e-12, rtol=1e-12)


def test_weights_default_to_the_mean_over_a_tokens_experts() -> None:
    mask = torch.tensor([[True, True], [False, True], [False, False]])
    order = permute(mask, backend="torch")
    assert order.mean_weights().tolist() == [0.5, 0.5, 1.0]  # (token, expert): (0, 0), (0, 1), (1, 1)
    y = combine(torch.tensor([[2.0], [4.0], [8.0]]), order.mean_weights(), order, backend="torch")
    assert y.tolist() == [[3.0], [8.0], [0.0]]


def test_rows_that_are_sorted_already_need_no_permutation() -> None:
    order = permute(mask_of(9, 4), backend="torch")
    x, gate_up, down = randn(9, 8), randn(4, 8, 12, seed=1), randn(4, 6, 8, seed=2)
    want = swiglu_experts(x, gate_up, down, order, backend="torch")
    rows = x[order.token_P]
    assert torch.equal(swiglu_experts(rows, gate_up, down, order.expert_offsets_E1, backend="torch"), want)


@pytest.mark.parametrize("fallback", ["least_utilised", "top1", "skip"])
@pytest.mark.parametrize("reach", ["selected", "all"])
def test_the_gate_is_the_models_gate(fallback: str, reach: str) -> None:
    settings = {"alpha": 0.3, "logit_scale": 2.0, "fallback": fallback, "straight_through": reach}
    config = MoEConfig(num_experts=5, max_experts=7, top_k=2, **settings)  # type: ignore[arg-type]
    model = Gate(config, model_dim=8, num_token_types=3)
    assert model.threshold is not None
    model.weight.data = randn(7, 8)
    model.threshold.data = uniform(7, seed=1) + 0.2
    model.activation_rates.copy_(uniform(3, 7, seed=2))
    x, types = randn(60, 8, seed=3), torch.arange(60) % 3
    want = model(x, types)
    got = gate(
        x, model.weight, model.threshold, model.activation_rates, types, model.active_experts,
        scale=2.0, alpha=0.3, fallback=fallback, straight_through=reach, backend="torch",
    )  # fmt: skip
    order = got.permute(backend="torch")
    assert torch.equal(got.mask_TE, want.mask_TE) and torch.equal(got.fallback_T, want.fallback_T)
    assert torch.equal(order.token_P, want.token_P) and torch.equal(order.expert_P, want.expert_P)
    assert_close([got.gate_TE, got.task_TE], [want.gate_TE, want.score_TE])
    assert_close(got.flipped_T, want.flipped_T)
    assert got.fallback_T.any() and got.flipped_T.any()

    def gradients(weight_P: Tensor, gate_TE: Tensor) -> tuple[Tensor, ...]:
        loss = (weight_P * randn(*weight_P.shape, seed=4)).sum() + (gate_TE * randn(60, 7, seed=5)).sum()
        return torch.autograd.grad(loss, [model.weight, model.threshold])

    assert_close(gradients(got.pair_weights(order), got.gate_TE), gradients(want.weight_P, want.gate_TE))


def test_pairs_are_those_of_nonzero_and_the_way_back_is_by_token() -> None:
    mask = torch.tensor([[True, False], [True, True], [False, False], [False, True]])
    token_P, expert_P, expert_offsets, pair_P, token_offsets = reference.permutation(mask)
    assert (token_P.tolist(), expert_P.tolist()) == ([0, 1, 1, 3], [0, 0, 1, 1])
    assert (expert_offsets.tolist(), token_offsets.tolist()) == ([0, 2, 4], [0, 1, 3, 3, 4])
    assert pair_P.tolist() == [0, 1, 2, 3]
