"""The experts: a loop is the definition of correct, grouped_mm must equal it, gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from timeexpert.moe import Experts
from timeexpert.moe.experts import SharedExperts, can_use_grouped_mm, grouped_gemm_loop, grouped_gemm_torch

COUNTS = [[4, 0, 3], [0, 0, 7], [33], [1] * 9, [0, 5]]  # uneven, empty, one, many


def make_experts(count: int, model_dim: int = 16, expert_dim: int = 8, backend: str = "auto") -> Experts:
    torch.manual_seed(0)
    experts = Experts(count, model_dim, expert_dim, backend)
    torch.nn.init.normal_(experts.gate_up_proj, std=model_dim**-0.5)
    torch.nn.init.normal_(experts.down_proj, std=expert_dim**-0.5)
    return experts


@pytest.mark.parametrize("counts", COUNTS)
def test_grouped_gemm_equals_the_loop_forward_and_backward(counts: list[int]):
    torch.manual_seed(0)
    out = []
    rows, weight = torch.randn(sum(counts), 20), torch.randn(len(counts), 20, 24) / 20**0.5
    grad = torch.randn(sum(counts), 24)
    for gemm in (grouped_gemm_loop, grouped_gemm_torch):
        x, w = rows.clone().requires_grad_(), weight.clone().requires_grad_()
        y = gemm(x, w, torch.tensor(counts))
        y.backward(grad)
        out.append((y, x.grad, w.grad))
    assert_close(out[1], out[0])


@pytest.mark.parametrize("counts", COUNTS)
def test_both_backends_give_the_same_experts(counts: list[int]):
    results = []
    x = torch.randn(sum(counts), 16, generator=torch.Generator().manual_seed(1))
    for backend in ("loop", "grouped_mm"):
        experts = make_experts(len(counts), backend=backend)
        rows = x.clone().requires_grad_()
        y = experts(rows, torch.tensor(counts))
        (y * y).mean().backward()
        results.append((y, rows.grad, experts.gate_up_proj.grad, experts.down_proj.grad))
    assert_close(results[1], results[0])


def test_an_expert_is_a_swiglu():
    experts = make_experts(2)
    x = torch.randn(3, 16)
    gate, up = (x[1:] @ experts.gate_up_proj[1]).chunk(2, -1)
    assert_close(experts(x, torch.tensor([1, 2]))[1:], (F.silu(gate) * up) @ experts.down_proj[1])


@pytest.mark.parametrize("backend", ["auto", "loop", "grouped_mm"])
def test_no_rows_at_all_give_none_and_zero_gradients(backend: str):
    experts = make_experts(3, backend=backend)
    y = experts(torch.zeros(0, 16), torch.zeros(3, dtype=torch.long))
    assert y.shape == (0, 16)
    y.sum().backward()
    assert experts.down_proj.grad is not None and experts.down_proj.grad.count_nonzero() == 0


@pytest.mark.parametrize(("model_dim", "expert_dim"), [(15, 8), (16, 7), (16, 6)])  # 6: only the inner rows are odd
def test_sizes_that_grouped_mm_cannot_take_fall_back_to_the_loop(model_dim: int, expert_dim: int):
    experts = make_experts(2, model_dim, expert_dim)
    x, counts = torch.randn(5, model_dim), torch.tensor([2, 3])
    assert not can_use_grouped_mm(x, experts.gate_up_proj, experts.down_proj)
    loop = make_experts(2, model_dim, expert_dim, "loop")
    assert_close(experts(x, counts), loop(x, counts))


def test_asking_for_grouped_mm_where_it_cannot_be_is_an_error():
    experts = make_experts(2, 16, 6, "grouped_mm")
    with pytest.raises(ValueError, match=r"grouped_mm does not take torch.float32.*\(2, 6, 16\).*multiples of 8"):
        experts(torch.randn(5, 16), torch.tensor([2, 3]))


def test_float64_goes_through_the_loop_so_that_gradients_can_be_checked():
    experts = make_experts(2, 4, 4).double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: experts(rows, torch.tensor([1, 2])), (x,))


def test_experts_follow_autocast():
    experts = make_experts(2)
    x, counts = torch.randn(5, 16), torch.tensor([2, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = experts(x, counts)
    assert y.dtype == torch.bfloat16
    assert_close(y.float(), experts(x, counts), atol=0.05, rtol=0.05)


def test_shared_experts_are_one_swiglu_of_their_summed_width():
    shared = SharedExperts(16, 2 * 8)
    x = torch.randn(2, 3, 16)
    want = (F.silu(x @ shared.gate_proj.weight.t()) * (x @ shared.up_proj.weight.t())) @ shared.down_proj.weight.t()
    assert_close(shared(x), want)
