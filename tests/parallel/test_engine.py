"""What ranks agree on, in real processes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from tests.ranks import run_ranks
from timeexpert.errors import UserError
from timeexpert.moe import MoEConfig, MoELayer
from timeexpert.moe.rows import block, joined, read_row, scale_rows, whole, write_row
from timeexpert.parallel import OneProcess, ParallelConfig, TorchRanks, start

SLOTS = 6


class Model(nn.Module):
    """One MoE layer between two matrices."""

    def __init__(self) -> None:
        super().__init__()
        config = MoEConfig(num_experts=SLOTS, expert_dim=4, top_k=2, num_shared_experts=1)
        self.into = nn.Linear(4, 8)
        self.moe = MoELayer(config, model_dim=8, num_token_types=2)
        self.out = nn.Linear(8, 4)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, S, 4) -> (B, S, 4)."""
        y, _ = self.moe(self.into(x), torch.zeros(x.shape[:2], dtype=torch.int64))
        return self.out(y)  # type: ignore[no-any-return]


def sharded(config: ParallelConfig) -> Any:
    return start(config, SLOTS, "cpu")


def edit_rows(config: ParallelConfig) -> dict[str, Any]:
    """A job: what becomes of a sharded stack of experts; and of the same tensor in one piece."""
    with sharded(config) as (engine, _):
        model = Model()
        expected = {name: value.detach().clone() for name, value in model.state_dict().items()}
        engine.shard(model, [model.into], ())
        checks: dict[str, Any] = {"whole": all(whole(v).equal(expected[n]) for n, v in model.state_dict().items())}
        stacked = model.moe.experts.gate_up_proj
        full = expected["moe.experts.gate_up_proj"]
        assert isinstance(stacked, DTensor) and not isinstance(model.moe.gate.weight, DTensor)
        checks["read"] = all(read_row(stacked, i).equal(full[i]) for i in range(SLOTS))
        row = torch.arange(full[0].numel(), dtype=torch.float32).view_as(full[0])
        write_row(stacked, 4, row)
        full[4] = row
        write_row(stacked, 1, 0.0)
        full[1] = 0.0
        scale_rows(stacked, torch.arange(1.0, SLOTS + 1))
        full *= torch.arange(1.0, SLOTS + 1)[:, None, None]
        checks["edited"] = whole(stacked).equal(full)
        moved = joined((full + 1)[block(stacked)[1]], stacked)
        checks["placed"] = whole(moved).equal(full + 1) and moved.to_local().shape == stacked.to_local().shape
        checks["held"] = block(stacked)[0].numel()
        return checks


@pytest.mark.parametrize(
    ("config", "ranks", "copies"),
    [
        (ParallelConfig(expert=2), 2, 1),
        (ParallelConfig(expert=3), 3, 1),
        (ParallelConfig(shard=4, expert=2), 4, 1),  # three experts over two ranks: uneven blocks
        (ParallelConfig(data=2, shard=2, expert=2), 4, 2),
        (ParallelConfig(data=2, shard=1, expert=2), 2, 1),
    ],
)
def test_rows_of_sharded_experts_are_read_and_edited_as_those_of_whole_ones(
    config: ParallelConfig, ranks: int, copies: int
) -> None:
    found = run_ranks(ranks, edit_rows, config)
    for checks in found:
        assert checks["whole"] and checks["read"] and checks["edited"] and checks["placed"]
    assert sum(checks["held"] for checks in found) == copies * SLOTS * 8 * 8


def agree() -> dict[str, Any]:
    """A job: what each collective of the engine gives here."""
    with sharded(ParallelConfig(expert=2)) as (engine, _):
        rank = engine.rank
        counts = [torch.tensor([rank, 1.0]), torch.tensor(10.0 * rank)]
        engine.sum_over_ranks(counts)
        found: dict[str, Any] = {
            "sums": [c.tolist() for c in counts],
            "gathered": engine.gather({"rank": rank}),
            "broadcast": engine.broadcast("from 1" if rank == 1 else None, 1),
            "any": (engine.any(rank == 1), engine.any(False)),
            "main": engine.from_main(lambda: f"made by {rank}"),
        }
        # a parameter of which one rank has no gradient, and one of which none has
        here, nowhere = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
        here.grad = torch.ones(2) if rank else None
        engine.reduce_gradients([here, nowhere])
        assert here.grad is not None
        found["gradients"] = (here.grad.tolist(), nowhere.grad)

        def refuse() -> None:
            raise UserError("the disk is full")

        try:
            engine.from_main(refuse)
        except (UserError, SystemExit) as error:
            found["refused"] = repr(error)
        return found


def test_ranks_agree_on_sums_values_votes_and_errors() -> None:
    for rank, found in enumerate(run_ranks(2, agree)):
        assert found["sums"] == [[1.0, 2.0], 10.0]
        assert found["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert found["broadcast"] == "from 1" and found["main"] == "made by 0"
        assert found["any"] == (True, False)
        assert found["gradients"] == ([1.0, 1.0], None)
        assert found["refused"] == ("SystemExit(2)" if rank else "UserError('the disk is full')")


def clip(config: ParallelConfig, most: float) -> dict[str, Any]:
    """A job: the norm and the clipped gradients where they lie on several meshes."""
    with sharded(config) as (engine, _):
        model = Model()
        engine.shard(model, [model.into], ())
        x = torch.randn(2 * engine.world_size, 3, 4, generator=torch.Generator().manual_seed(1))
        model(x.chunk(engine.world_size)[engine.rank]).square().sum().backward()
        parameters = list(model.parameters())
        engine.reduce_gradients(parameters)
        norm = engine.clip_grad_norm_(parameters, most)
        gradients = {n: None if p.grad is None else whole(p.grad) for n, p in model.named_parameters()}
        return {"norm": norm, "gradients": gradients}


@pytest.mark.parametrize(
    ("config", "ranks"),
    [(ParallelConfig(expert=2), 2), (ParallelConfig(data=2, expert=1), 2), (ParallelConfig(data=2, expert=2), 4)],
)
def test_gradients_are_sums_over_ranks_and_are_clipped_by_their_norm_over_all_meshes(
    config: ParallelConfig, ranks: int
) -> None:
    found = run_ranks(ranks, clip, config, 1.0)
    model = Model()
    model(torch.randn(2 * ranks, 3, 4, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    norm = OneProcess().clip_grad_norm_(list(model.parameters()), 1.0)
    assert norm > 2.0
    for rank in found:
        assert rank["norm"] == pytest.approx(norm, rel=1e-5)
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                assert rank["gradients"][name] is None, name
            else:
                torch.testing.assert_close(rank["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-6)


class Done(Exception):
    """Leaves the engine as an error would."""


def wait_in_vain(which: str) -> str:
    """A job: rank 1 never joins the collective that rank 0 starts in one of the groups; returns what that says."""
    said = ""
    with suppress(Done), start(ParallelConfig(expert=2, timeout_s=1.0), SLOTS, "cpu") as (engine, _):
        assert isinstance(engine, TorchRanks)
        group = engine.meshes.expert.get_group() if which == "expert" else dist.group.WORLD
        if engine.rank == 0:
            try:
                dist.all_reduce(torch.ones(1), group=group)
            except RuntimeError as error:
                said = str(error)
        engine.from_main(lambda: None)  # waits as long as it takes
        raise Done  # the group is broken: no barrier at the end
    return said


@pytest.mark.parametrize("which", ["world", "expert"])  # torch gives the groups of a mesh a timeout of their own
def test_a_collective_that_a_rank_does_not_join_is_given_up(which: str) -> None:
    said, _ = run_ranks(2, wait_in_vain, which)
    assert "Timed out waiting 1000ms" in said
