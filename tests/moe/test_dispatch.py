"""Expert parallelism: rows travel to the ranks that hold their experts and back, in real processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.ranks import run_ranks
from timeexpert.moe.dispatch import AllToAllDispatch, LocalDispatch, received_pairs
from timeexpert.moe.experts import Experts
from timeexpert.moe.gate import Pairs
from timeexpert.parallel import ParallelConfig, start

SLOTS, DIM = 4, 8
# For each rank, the experts of each of its tokens: none, one or several; the second rank has one token, which all
# experts compute; the third has no token at all; the fourth sends nothing to anyone.
ROUTED: list[list[list[int]]] = [[[0, 3], [], [1], [0, 1, 2, 3]], [[0, 1, 2, 3]], [], [[], []]]


def experts() -> Experts:
    made = Experts(SLOTS, DIM, 16)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return made


def tokens(rank: int) -> tuple[Tensor, Tensor]:
    """x_TD and weight_TE of a rank, both with gradients."""
    generator = torch.Generator().manual_seed(100 + rank)
    count = len(ROUTED[rank])
    x_TD = torch.randn(count, DIM, generator=generator).requires_grad_()
    return x_TD, torch.rand(count, SLOTS, generator=generator).requires_grad_()


def pairs(rank: int, weight_TE: Tensor) -> Pairs:
    mask_TE = torch.zeros(len(ROUTED[rank]), SLOTS, dtype=torch.bool)
    for token, chosen in enumerate(ROUTED[rank]):
        mask_TE[token, chosen] = True
    expert_P, token_P = mask_TE.t().nonzero(as_tuple=True)
    return Pairs(token_P, expert_P, weight_TE[token_P, expert_P], mask_TE)


def loss_of(y_TD: Tensor) -> Tensor:
    return (y_TD * torch.linspace(0.5, 1.5, DIM)).square().sum()


def exchange(world_size: int) -> dict[str, Any]:
    """A job: outputs and gradients of this rank, with each rank holding an equal part of the experts."""
    with start(ParallelConfig(), SLOTS, "cpu") as (engine, _):
        here = experts()
        size = SLOTS // world_size
        mine = slice(engine.rank * size, (engine.rank + 1) * size)
        for name, parameter in list(here.named_parameters()):
            setattr(here, name, torch.nn.Parameter(parameter.detach()[mine].clone()))
        x_TD, weight_TE = tokens(engine.rank)
        dispatch = AllToAllDispatch(dist.group.WORLD)  # type: ignore[arg-type]
        y_TD = dispatch(here, x_TD, pairs(engine.rank, weight_TE))
        loss_of(y_TD).backward()
        found = {"y": y_TD.detach(), "x": x_TD.grad, "weight": weight_TE.grad}
        return {**found, "experts": [p.grad for p in here.parameters()]}


@pytest.mark.parametrize("world_size", [2, 4])
def test_outputs_and_gradients_equal_those_of_one_process_that_holds_all_experts(world_size: int) -> None:
    ranks = run_ranks(world_size, exchange, world_size)
    whole = experts()
    for rank in range(world_size):
        x_TD, weight_TE = tokens(rank)
        y_TD = LocalDispatch()(whole, x_TD, pairs(rank, weight_TE))
        loss_of(y_TD).backward()
        torch.testing.assert_close(ranks[rank]["y"], y_TD.detach())
        torch.testing.assert_close(ranks[rank]["x"], x_TD.grad)
        torch.testing.assert_close(ranks[rank]["weight"], weight_TE.grad)
    for i, parameter in enumerate(whole.parameters()):
        together = torch.cat([found["experts"][i] for found in ranks])  # each rank has the gradient of all tokens
        torch.testing.assert_close(together, parameter.grad)


def test_rows_that_came_in_by_rank_are_computed_by_expert() -> None:
    received_NL = torch.tensor([[1, 2], [0, 1]])  # rows: expert 0, 1, 1 from rank 0; expert 1 from rank 1
    found = received_pairs(received_NL, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert found.token_P.tolist() == [0, 1, 2, 3] and found.expert_P.tolist() == [0, 1, 1, 1]
    assert found.tokens_per_expert_E.tolist() == [1, 3]
    later_first = received_pairs(torch.tensor([[0, 1], [2, 0]]), torch.tensor([0.1, 0.2, 0.3]))
    assert later_first.token_P.tolist() == [1, 2, 0]
    torch.testing.assert_close(later_first.weight_P, torch.tensor([0.2, 0.3, 0.1]))
