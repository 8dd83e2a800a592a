"""The permutation without a sort: the same pairs as nonzero, in the same order, and the way back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.kernels.cases import LOADS, mask_of, randn
from timeexpert.kernels.backend import KernelError
from timeexpert.kernels.experts import combine
from timeexpert.kernels.permutation import Permutation, permute

FIELDS = ("token_P", "expert_P", "expert_offsets_E1", "pair_P", "token_offsets_T1")


def assert_equal(got: Permutation, want: Permutation) -> None:
    for name in FIELDS:
        a, b = getattr(got, name).cpu(), getattr(want, name).cpu()
        assert a.dtype == b.dtype and torch.equal(a, b), name


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(("tokens", "experts"), [(1, 1), (64, 8), (150, 13), (65, 64)])
def test_it_equals_nonzero(load: str, tokens: int, experts: int, device: torch.device) -> None:
    mask = LOADS[load](tokens, experts)
    got = permute(mask.to(device), backend="triton")
    assert_equal(got, permute(mask, backend="torch"))
    expert_P, token_P = mask.t().nonzero(as_tuple=True)
    assert torch.equal(got.token_P.cpu(), token_P) and torch.equal(got.expert_P.cpu(), expert_P)
    assert got.tokens_per_expert_E.tolist() == mask.sum(0).tolist()


def test_many_tokens_are_counted_in_larger_blocks(device: torch.device) -> None:
    mask = mask_of(16384, 2)
    assert_equal(permute(mask.to(device), backend="triton"), permute(mask, backend="torch"))


def test_no_tokens_have_no_pairs(device: torch.device) -> None:
    mask = torch.zeros(0, 4, dtype=torch.bool)
    assert_equal(permute(mask.to(device), backend="triton"), permute(mask, backend="torch"))


def test_a_known_number_of_pairs_gives_the_same(device: torch.device) -> None:
    mask = torch.zeros(70, 9, dtype=torch.bool).scatter(1, randn(70, 9).topk(3).indices, True)
    assert_equal(permute(mask.to(device), num_pairs=210, backend="triton"), permute(mask, backend="torch"))


def test_entries_past_the_last_pair_add_nothing(device: torch.device) -> None:
    mask = mask_of(20, 4)
    exact, loose = (permute(mask.to(device), num_pairs=n, backend="triton") for n in (None, 80))
    pairs = exact.token_P.numel()
    assert loose.token_P.numel() == 80 and torch.equal(loose.token_P[:pairs], exact.token_P)
    rows, value = randn(80, 6).to(device), randn(20, 4, seed=1).to(device)
    rows[pairs:] = float("nan")

    def combined(order: Permutation, rows: Tensor) -> list[Tensor]:
        rows, weight = rows.clone().requires_grad_(), value.clone().requires_grad_()
        y = combine(rows, order.at_pairs(weight), order, backend="triton")
        return [y, *torch.autograd.grad(y.sum(), [rows, weight])]

    got, want = combined(loose, rows), combined(exact, rows[:pairs])
    assert torch.equal(got[0], want[0]) and torch.equal(got[2], want[2])
    assert torch.equal(got[1][:pairs], want[1]) and not got[1][pairs:].any()


@pytest.mark.skipif(torch.cuda.is_available(), reason="an assertion on a GPU ends the process's use of it")
def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"num_pairs \(3\) is less than the mask holds"):
        permute(torch.ones(2, 2, dtype=torch.bool), num_pairs=3, backend="triton")


@pytest.mark.parametrize("mask", [torch.ones(2, 2), torch.ones(4, dtype=torch.bool)])
def test_another_mask_is_refused(mask: Tensor) -> None:
    with pytest.raises(KernelError, match="it must be torch.bool of shape"):
        permute(mask)


def test_it_is_megatron_cores_permutation() -> None:
    moe_utils = pytest.importorskip(
        "megatron.core.transformer.moe.moe_utils", reason="megatron-core is not installed: pip install -e '.[megatron]'"
    )
    mask, x = mask_of(50, 7), randn(50, 6)
    probs = torch.rand(50, 7) * mask
    theirs, their_probs, their_order = moe_utils.permute(x, mask, probs=probs)[:3]
    order = permute(mask, backend="triton")
    assert torch.equal(x[order.token_P], theirs) and torch.equal(order.at_pairs(probs), their_probs)
    rows = randn(*theirs.shape, seed=1)
    want = moe_utils.unpermute(rows, their_order, x.shape, probs=probs, routing_map=mask)
    torch.testing.assert_close(combine(rows, order.at_pairs(probs), order, backend="triton"), want)
