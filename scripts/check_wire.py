"""Bytes on the wire of real ranks beside the planner's: ``python scripts/check_wire.py [--write]``.

For each degree of expert parallelism torchrun starts four gloo ranks, which make optimizer steps of a small model while
every collective of torch.distributed is noted with its payload. Printed are bytes that a rank sends per step, all in
all and for the all-to-all of the experts, measured and planned, and the all-to-all's share of the step's time.
``--write`` puts the table into docs/planner.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.check_planner import Case, Routed, build, make_batch, write  # noqa: E402
from timeexpert.moe.dispatch import EXCHANGED  # noqa: E402
from timeexpert.parallel import ParallelConfig, start  # noqa: E402
from timeexpert.planner import Cluster, Layout, find_gpu, make_plan, stage_model  # noqa: E402
from timeexpert.stages.loop import autocast  # noqa: E402

CASE = Case(videos=4, frames=16, text=128, layers=4, dim=128, experts=8, accumulate=4)
RANKS, DEGREES, STEPS = 4, (1, 2, 4), 3
MARKS = ("<!-- check_wire: begin -->", "<!-- check_wire: end -->")
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


@dataclass(frozen=True)
class Step:
    """An optimizer step of one rank: payloads of its collectives by kind, its experts per token, how long it took and
    how long its all-to-all, and the bytes that this sent to other ranks."""

    payloads: dict[str, list[int]]
    experts_per_token: float
    seconds: float
    exchange_s: float
    exchanged: int


def steps(case: Case, parallel: ParallelConfig, count: int) -> Step:
    """The last of ``count`` optimizer steps, on each rank."""
    torch.set_num_threads(1)
    with start(parallel, case.experts, "cpu") as (engine, _):
        config, model = build(case)
        engine.shard(model, model.sharding_units(), ("training_step",))
        trained = [p for p in model.parameters() if p.requires_grad]
        batches = [make_batch(model, case, seed) for seed in range(case.accumulate)]
        for _ in range(count):
            with Recorder() as recorder:
                EXCHANGED.take()
                began = time.perf_counter()
                for batch in batches:
                    with autocast(config.train, torch.device("cpu")):
                        out = model.training_step(batch, {"text": 1.0, "time": 1.0, "score": 1.0, "micro_steps": 1.0})
                    out.loss.backward()
                engine.reduce_gradients(trained)
                engine.clip_grad_norm_(trained, 1.0)
                seconds, exchange = time.perf_counter() - began, EXCHANGED.take()
            for parameter in trained:
                parameter.grad = None
        routed = Routed.of(out.routings, batch.input_ids.numel())
    return Step(dict(recorder.payloads), routed.experts_per_token, seconds, *exchange)


def planned(case: Case, parallel: ParallelConfig, ranks: int, experts_per_token: float) -> Any:
    """The plan of exactly these rows and this routing."""
    config = case.config()
    tokens = case.frames * 14 + case.text
    model = stage_model(
        config, config.stages[0], case.vocabulary, row_tokens=tokens, experts_per_token=experts_per_token
    )
    layout = Layout(
        degrees=parallel.degrees(ranks, case.experts),
        micro_batch=case.videos,
        accumulate=case.accumulate,
        gradient_checkpointing=case.checkpointing,
    )
    return make_plan(model, Cluster(gpu=find_gpu("h100-80g"), nodes=1, gpus_per_node=ranks), layout)


def on_a_rank(expert: int) -> int:
    """Measure, and print one JSON line."""
    case, parallel = replace(CASE, accumulate=CASE.accumulate // RANKS), ParallelConfig(expert=expert)
    print(f"RESULT {json.dumps(asdict(steps(case, parallel, STEPS)))}", flush=True)
    return 0


def measure(expert: int) -> dict[str, Any]:
    """One row of the table."""
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={RANKS}",
        __file__,
        "--rank",
        str(expert),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, check=False)
    # ranks may print into each other's lines
    told = [Step(**json.JSONDecoder().raw_decode(text)[0]) for text in done.stdout.split("RESULT ")[1:]]
    if done.returncode or len(told) != RANKS:
        raise SystemExit(f"expert={expert}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    case, parallel = replace(CASE, accumulate=CASE.accumulate // RANKS), ParallelConfig(expert=expert)
    plan = planned(case, parallel, RANKS, sum(step.experts_per_token for step in told) / RANKS)
    total, own = {"measured": 0.0, "planned": 0.0}, {"measured": 0.0, "planned": 0.0}
    for kind in ("all_gather", "reduce_scatter", "all_reduce", "all_to_all"):
        calls = [c for c in plan.traffic if c.kind == kind]
        expected, payload = sum(c.sent for c in calls), sum(c.calls * c.payload for c in calls)
        if kind == "all_to_all":
            measured = sum(step.exchanged for step in told) / RANKS
            own = {"measured": measured, "planned": expected}
        else:  # what a payload costs depends on the size of the group, which is the plan's
            called = sum(sum(step.payloads.get(kind, [])) for step in told) / RANKS
            measured = called * expected / payload if payload else 0.0
        total["measured"] += measured
        total["planned"] += expected
    share = sum(step.exchange_s for step in told) / sum(step.seconds for step in told)
    return {"expert": expert, "all": total, "all_to_all": own, "all_to_all_share": share}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table and where it comes from."""
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} with torch {torch.__version__} and gloo, {RANKS} ranks on one machine "
        f"({platform.machine()}), {CASE.layers} layers of {CASE.experts} experts, d = {CASE.dim}. MB that a rank sends "
        "per step; seconds are measured and include waiting (the ranks share the cores).",
        "",
        "| expert | all, measured | planned | error | all-to-all, measured | planned | error | share of bytes "
        "| planned | of seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        every, own = row["all"], row["all_to_all"]
        cells = [str(row["expert"])]
        for pair in (every, own):
            error = f"{pair['planned'] / pair['measured'] - 1:+.1%}" if pair["measured"] else "-"
            cells += [f"{pair['measured'] / 1e6:.2f}", f"{pair['planned'] / 1e6:.2f}", error]
        cells += [f"{own[name] / every[name]:.1%}" for name in ("measured", "planned")]
        cells.append(f"{row['all_to_all_share']:.0%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure each degree, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/planner.md")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rank", type=int, metavar="DEGREE", help=argparse.SUPPRESS)  # one of the ranks
    args = parser.parse_args()
    if args.rank:
        return on_a_rank(args.rank)
    rows = [measure(expert) for expert in DEGREES]
    text = markdown(rows)
    if args.write:
        write(text, marks=MARKS)
    print(json.dumps(rows) if args.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
