"""On a GPU, compiled: the sizes of a real layer, where offsets, tiles and stages differ from the small tests.

The other tests here run compiled on a GPU too; these need one.
"""

from __future__ import annotations

import pytest
import torch

from tests.kernels import test_experts, test_gate
from tests.kernels.cases import LOADS, mask_of, randn
from timeexpert.kernels.experts import experts_forward
from timeexpert.kernels.permutation import permute

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("load", ["uneven", "some_empty", "one_expert"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_experts_at_the_size_of_a_layer(load: str, dtype: torch.dtype, device: torch.device) -> None:
    inputs = test_experts.make_inputs(1000, 1024, 416, 16, device, dtype)
    test_experts.check(inputs, LOADS[load](1000, 16))


def test_the_gate_at_the_size_of_a_layer(device: torch.device) -> None:
    inputs = test_gate.make_inputs(1000, 2560, 64, device, torch.bfloat16)
    exact, got = test_gate.run([x.double() for x in inputs], "torch"), test_gate.run(inputs, "triton")
    assert (got.score_TE - exact.score_TE).abs().max() < 1e-5
    close = (exact.task_TE - inputs[2]).abs() < 1e-5
    assert ((got.gate_TE == exact.gate_TE) | close).all()


def test_the_permutation_at_the_size_of_a_layer(device: torch.device) -> None:
    mask = mask_of(20000, 64, 0.1)
    got, want = permute(mask.to(device), backend="triton"), permute(mask, backend="torch")
    for name in ("token_P", "expert_P", "expert_offsets_E1", "pair_P", "token_offsets_T1"):
        assert torch.equal(getattr(got, name).cpu(), getattr(want, name)), name


def test_twice_is_the_same_to_the_last_bit(device: torch.device) -> None:
    order = permute(mask_of(1000, 16).to(device))
    results = []
    for _ in range(2):
        x, gate_up, down, _ = (t.requires_grad_() for t in test_experts.make_inputs(1000, 256, 128, 16, device))
        y = experts_forward(x, gate_up, down, order)
        y.backward(randn(1000, 256, seed=5).to(device))
        results.append([y, x.grad, gate_up.grad, down.grad])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.multi_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_another_gpu_than_the_current_one() -> None:
    """As a model has them whose layers stand on several GPUs."""
    device = torch.device("cuda", 1)
    assert torch.cuda.current_device() == 0
    test_gate.check(test_gate.make_inputs(70, 40, 9, device))
    test_experts.check(test_experts.make_inputs(37, 40, 36, 5, device), mask_of(37, 5))
