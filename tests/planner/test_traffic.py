"""The planned collectives against those that real ranks call in one optimizer step."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scripts.check_planner import Case, Routed, build, make_batch
from tests.ranks import run_ranks
from timeexpert.parallel import ParallelConfig
from timeexpert.planner import Cluster, Layout, find_gpu, make_plan, stage_model

CASE = Case(videos=2, frames=2, text=32, layers=2, experts=4, accumulate=2, checkpointing=True)
# Each op of torch.distributed: the kind it is, and which argument is the payload.
KINDS = {
    "_allgather_base_": ("all_gather", 0),
    "_reduce_scatter_base_": ("reduce_scatter", 1),
    "allreduce_": ("all_reduce", 0),
    "alltoall_base_": ("all_to_all", 1),
}


class Recorder(TorchDispatchMode):
    """Payloads in bytes of the collectives of one process, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: dict[str, list[int]] = defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")
        if name[0] == "c10d" and name[2] in KINDS:
            kind, place = KINDS[name[2]]
            tensors = args[place] if isinstance(args[place], list) else [args[place]]
            self.payloads[kind].append(sum(t.numel() * t.element_size() for t in tensors))
        return func(*args, **(kwargs or {}))


def one_step(case: Case, parallel: ParallelConfig) -> tuple[dict[str, list[int]], float]:
    """A job: one optimizer step; returns its collectives, and the rank's experts per token."""
    from timeexpert.parallel import start
    from timeexpert.stages.loop import autocast

    torch.set_num_threads(1)
    with start(parallel, case.experts, "cpu") as (engine, _):
        config, model = build(case)
        engine.shard(model, model.sharding_units(), ("training_step",))
        trained = [p for p in model.parameters() if p.requires_grad]
        batches = [make_batch(model, case, seed) for seed in range(case.accumulate)]
        with Recorder() as recorder:
            for batch in batches:
                with autocast(config.train, torch.device("cpu")):
                    out = model.training_step(batch, {"text": 1.0, "time": 1.0, "score": 1.0, "micro_steps": 1.0})
                out.loss.backward()
            engine.reduce_gradients(trained)
            engine.clip_grad_norm_(trained, 1.0)
        routed = Routed.of(out.routings, batch.input_ids.numel())
    return dict(recorder.payloads), routed.experts_per_token


@pytest.mark.parametrize(
    ("ranks", "parallel"),
    [(2, ParallelConfig(expert=2)), (2, ParallelConfig(expert=1)), (4, ParallelConfig(data=2, shard=2, expert=2))],
    ids=["experts over two", "sharded over two", "two by two"],
)
def test_ranks_call_the_planned_collectives(ranks: int, parallel: ParallelConfig) -> None:
    recorded = run_ranks(ranks, one_step, CASE, parallel)
    config = CASE.config()
    tokens = CASE.frames * 14 + CASE.text
    k = sum(mean for _, mean in recorded) / ranks
    model = stage_model(config, config.stages[0], CASE.vocabulary, row_tokens=tokens, experts_per_token=k)
    degrees = parallel.degrees(ranks, CASE.experts)
    layout = Layout(degrees=degrees, micro_batch=CASE.videos, accumulate=CASE.accumulate, gradient_checkpointing=True)
    plan = make_plan(model, Cluster(gpu=find_gpu("h100-80g"), nodes=1, gpus_per_node=ranks), layout)
    for kind in ("all_gather", "reduce_scatter", "all_reduce", "all_to_all"):
        planned = [c for c in plan.traffic if c.kind == kind]
        called = [payloads.get(kind, []) for payloads, _ in recorded]
        assert {len(calls) for calls in called} == {sum(c.calls for c in planned)}, kind
        mean = sum(map(sum, called)) / ranks
        assert sum(c.calls * c.payload for c in planned) == pytest.approx(mean, rel=0.03), kind
