"""``timeexpert plan CONFIG``: what training costs on a cluster, stage by stage, before any GPU is asked for."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timeexpert.planner import Cluster, Plan, StageModel
    from timeexpert.stages.config import RunConfig

HELP = "plan a run on a cluster: memory per GPU, FLOPs, traffic, time per step, and what makes it fit"

FIGURES = {
    "memory_gib": "memory that programs can use, GiB",
    "bf16_tflops": "peak of dense bf16 products, TFLOP/s",
    "fp32_tflops": "peak of float32 products, TFLOP/s",
    "memory_gb_s": "memory bandwidth, GB/s",
    "link_gb_s": "bandwidth to the GPUs of the node, one way, GB/s",
    "network_gb_s": "share of the node's network, one way, GB/s",
    "host_gb_s": "bandwidth to the node's memory, one way, GB/s",
}
ASSUMED = {
    "matmul_efficiency": "share of the peak that products reach",
    "bandwidth_efficiency": "share of the bandwidths that is reached",
    "reserve_gib": "memory that torch does not count, and fragmentation, GiB",
    "host_memory_gb_s": "bandwidth of the node's memory, GB/s (offload)",
    "host_memory_gib": "the node's memory, GiB (offload)",
    "latency_us": "of a collective per doubling of its ranks",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``timeexpert plan``."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or the name of one that comes with the package")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key.path=value",
        help="changes to the config: parallel.shard=8 train.gradient_checkpointing=true",
    )
    parser.add_argument("--stage", action="append", default=[], metavar="NAME", help="only this stage; may be repeated")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes (default 1)")
    parser.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="GPUs of a node (default 8)")
    parser.add_argument("--gpu", default="h100-80g", metavar="NAME", help="one of the table (default h100-80g)")
    parser.add_argument("--sweep", action="store_true", help="the fastest layout that fits on 1, 2, 4, ... GPUs")
    parser.add_argument("--max-gpus", type=int, default=4096, metavar="N", help="where --sweep ends (default 4096)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--offload", action="store_true", help="weights, gradients and optimizer in host memory")
    rows = parser.add_argument_group("rows")
    rows.add_argument("--row-tokens", type=int, metavar="N", help="tokens of every row (default: see docs/planner.md)")
    rows.add_argument(
        "--text-tokens", type=int, default=256, metavar="N", help="of a question and answer (default 256)"
    )
    rows.add_argument("--experts-per-token", type=float, metavar="K", help="mean (default: model.moe.top_k)")
    rows.add_argument("--imbalance", type=float, default=1.2, metavar="X", help="busiest rank over the mean (1.2)")
    rows.add_argument("--vocab-size", type=int, metavar="N", help="text pieces (default: asks text.tokenizer)")
    figures = parser.add_argument_group("figures of one's own")
    for name, text in {**FIGURES, **ASSUMED}.items():
        figures.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=text)


def run(args: argparse.Namespace) -> int:
    """Print the plans; 1 where a stage does not fit."""
    from timeexpert.config import load
    from timeexpert.paths import config_path
    from timeexpert.planner import PlanError
    from timeexpert.planner.plan import uncounted
    from timeexpert.planner.report import advice, print_plan, print_sweep, sweep_rows
    from timeexpert.planner.search import sweep
    from timeexpert.planner.sizes import vocabulary
    from timeexpert.stages.config import RunConfig

    config = load(RunConfig, config_path(args.config), args.overrides)
    if config.parallel.engine != "torch":
        raise PlanError(
            f"parallel.engine ({config.parallel.engine!r}) is not one that the planner knows the memory and traffic "
            "of. Add parallel.engine=torch parallel.zero=null parallel.offload=false to plan the run with FSDP2."
        )
    cluster = _cluster(args)
    vocab_size, note = vocabulary(config, args.vocab_size)
    notes = [note] if note else []
    models = _models(args, config, vocab_size)
    notes += [left_out for model in models if (left_out := uncounted(model, cluster.world))]
    out: dict[str, Any] = {"config": config.name, "cluster": asdict(cluster), "notes": notes}
    if args.sweep:
        tables = {model.stage.name: sweep(model, cluster, args.max_gpus) for model in models}
        if args.json:
            out["sweep"] = {name: sweep_rows(plans) for name, plans in tables.items()}
            print(json.dumps(out, allow_nan=False))
        else:
            for name, plans in tables.items():
                print_sweep(config.name, name, plans, notes)
        return 0
    plans = [_plan(config, model, cluster, args.offload) for model in models]
    if args.json:
        out["stages"] = [{**plan.to_json(), "advice": advice(plan).to_json()} for plan in plans]
        print(json.dumps(out, allow_nan=False))
    else:
        for plan in plans:
            print_plan(config.name, plan, notes)
    return 0 if all(plan.fits for plan in plans) else 1


def _plan(config: RunConfig, model: StageModel, cluster: Cluster, offload: bool) -> Plan:
    from timeexpert.planner import make_plan
    from timeexpert.planner.layout import configured

    slots = model.dimensions.experts
    layout = configured(config, model.stage, cluster, slots=slots, videos=model.videos, offload=offload)
    return make_plan(model, cluster, layout)


def _cluster(args: argparse.Namespace) -> Cluster:
    from timeexpert.planner import Cluster, find_gpu

    gpu = find_gpu(args.gpu, {name: getattr(args, name) for name in FIGURES})
    assumed = {name: getattr(args, name) for name in ASSUMED if getattr(args, name) is not None}
    return Cluster(gpu=gpu, nodes=args.nodes, gpus_per_node=args.gpus_per_node, **assumed)


def _models(args: argparse.Namespace, config: RunConfig, vocab_size: int) -> list[StageModel]:
    from timeexpert.planner import PlanError, stage_model

    names = [stage.name for stage in config.stages]
    for name in args.stage:
        if name not in names:
            raise PlanError(f"--stage {name!r} is not a stage of this config; there are {', '.join(names)}.")
    return [
        stage_model(
            config,
            stage,
            vocab_size,
            row_tokens=args.row_tokens,
            text_tokens=args.text_tokens,
            experts_per_token=args.experts_per_token,
            imbalance=args.imbalance,
        )
        for stage in config.stages
        if not args.stage or stage.name in args.stage
    ]
