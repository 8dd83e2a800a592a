"""Speed of our mixture of experts against transformers' ARIA layer, a plain loop and one dense matmul, in one run.

``python scripts/bench_moe.py [--sizes 2048,512,256,64,6] [--dtype float32] [--repeats 15] [--threads 2] [--json]``

A layer is gate, routed experts and ARIA's two shared experts. Ours (``topk``) and transformers' have the same weights
and choose the same experts, which is checked before anything is timed; ``topany`` is the paper's gate, its thresholds
calibrated to the same mean number of experts. ``dense`` is one matmul of the layer's FLOPs (with its two gradients
where the backward pass is timed), its results allocated beforehand. Every figure is the median of repeats that take
turns, each on new tokens. Ratios are speeds: 2 means that ours takes half the time. A row with all of it is appended to
benchmarks/moe.jsonl (``--out``); benchmarks/README.md says how to read one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import ROOT, append_row, commit, cpu_name
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from transformers import AriaTextConfig
from transformers.models.aria.modeling_aria import AriaTextMoELayer

from timeexpert.moe import MoEConfig, MoELayer
from timeexpert.moe.fused_experts import arrange, product_type, row_multiple, zeros_to_sum
from timeexpert.stages.memory import keep_freed_memory

SIZES = ("512,256,128,16,4", "2048,512,256,64,6", "4096,1024,416,64,6", "4096,128,64,6,2")
DTYPES = ("float32", "bfloat16")
SHARED = 2  # ARIA's number of shared experts
THEIRS = ("eager", "batched_mm", "grouped_mm")
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
SLOW_S = 2.0  # a case that takes longer is repeated SLOW_REPEATS times only
SLOW_REPEATS = 3

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Size:
    """Of a layer: tokens, model dim, width of an expert, experts, experts per token."""

    tokens: int
    dim: int
    width: int
    experts: int
    k: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """From ``tokens,dim,width,experts,k``; argparse shows the error."""
        try:
            size = cls(*(int(part) for part in text.split(",")))
        except (TypeError, ValueError):
            raise argparse.ArgumentTypeError(f"{text!r} is not tokens,dim,width,experts,k") from None
        if min(vars(size).values()) < 1 or size.k > size.experts:
            raise argparse.ArgumentTypeError(f"{text!r}: all five must be 1 or more, and k at most experts")
        return size

    @property
    def flops(self) -> float:
        """Of the forward pass, in products of routed and shared experts."""
        return 2.0 * self.tokens * (self.k + SHARED) * 3 * self.dim * self.width

    @property
    def batched_mm_gib(self) -> float:
        """Memory that batched_mm takes for a copy of each pair's weights in float32, twice in its backward pass."""
        return 4.0 * self.tokens * self.k * 3 * self.dim * self.width * 2 / 2**30


def make_layers(size: Size, dtype: torch.dtype, device: torch.device) -> dict[str, nn.Module]:
    """All layers by name, with the same weights, such that outputs are near 1."""
    torch.manual_seed(0)
    config = AriaTextConfig(
        hidden_size=size.dim, intermediate_size=size.width, num_attention_heads=1, moe_num_experts=size.experts,
        moe_topk=size.k, moe_num_shared_experts=SHARED,
    )  # fmt: skip
    first = AriaTextMoELayer(config)
    for parameter in first.parameters():
        nn.init.normal_(parameter, std=0.7 * size.dim**-0.5)
    layers: dict[str, nn.Module] = {}
    for name in THEIRS:
        own = AriaTextConfig(**config.to_dict())
        own._experts_implementation = name
        layers[name] = AriaTextMoELayer(own)
        layers[name].load_state_dict(first.state_dict())
    renamed = {name.replace("router.", "gate."): value for name, value in first.state_dict().items()}
    for name, router, backend in (("topk", "topk", "auto"), ("topany", "topany", "auto"), ("loop", "topk", "loop")):
        moe = MoEConfig(
            router=router, num_experts=size.experts, expert_dim=size.width, top_k=size.k, num_shared_experts=SHARED,
            backend=backend,
        )  # type: ignore[arg-type]  # fmt: skip
        layers[name] = MoELayer(moe, model_dim=size.dim, num_token_types=1)
        layers[name].load_state_dict(renamed, strict=False)
    return {name: layer.to(device, dtype) for name, layer in layers.items()}


def output(layer: nn.Module, x_BSD: Tensor) -> Tensor:
    """(1, T, D)."""
    if isinstance(layer, MoELayer):
        return layer(x_BSD, torch.zeros(x_BSD.shape[:2], dtype=torch.int64, device=x_BSD.device))[0]
    return layer(x_BSD)


def check_equal(layers: dict[str, nn.Module], x: Tensor, d_y: Tensor) -> float:
    """Share of the tokens whose experts are the same in ours and theirs; exits where these tokens' results differ.

    In float32 all are; in bf16 transformers rounds the gate's logits, and two that are close may change places.
    """
    index_TK = layers["grouped_mm"].router(x[0])[2]
    mask_TE = layers["topk"].gate(x[0], torch.zeros(x.shape[1], dtype=torch.int64, device=x.device)).mask_TE
    same_T = mask_TE.gather(1, index_TK).all(-1)
    least = 1.0 if x.dtype == torch.float32 else 0.5
    want = layer_results(layers["grouped_mm"], x, d_y)
    for name in ("topk", "loop"):
        for what, a, b in zip(("y", "dx"), layer_results(layers[name], x, d_y), want, strict=True):
            a, b = a[0, same_T].float(), b[0, same_T].float()
            error = float((a - b).norm() / b.norm())
            if same_T.float().mean() < least or not error <= TOLERANCE[x.dtype]:
                sys.exit(f"error: {what} of {name} and transformers differ by {error:.2e}: not the same work.")
    return float(same_T.float().mean())


def layer_results(layer: nn.Module, x: Tensor, d_y: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient of the tokens."""
    x = x.clone().requires_grad_()
    y = output(layer, x)
    return y.detach(), torch.autograd.grad(y, x, d_y)[0]


def make_cases(
    layers: dict[str, nn.Module], x: Tensor, d_y: Tensor, size: Size, backward: bool
) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    cases = {name: layer_case(layer, x, d_y, backward) for name, layer in layers.items()}
    cases["dense"] = dense_case(size, x, backward)
    for name in ("topk", "topany"):
        cases[f"{name}: gate"] = gate_case(layers[name], x[0], backward)
        cases[f"{name}: dispatch"] = dispatch_case(layers[name], x[0], d_y[0], backward)
    return cases


def layer_case(layer: nn.Module, x: Tensor, d_y: Tensor, backward: bool) -> Callable[[], Any]:
    """A whole layer; with ``backward`` the gradients of tokens and of every weight."""
    if not backward:
        return torch.no_grad()(lambda: output(layer, x))
    x = x.detach().requires_grad_()  # on the same memory, which gets new tokens
    wanted = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(output(layer, x), wanted, d_y)


def dense_case(size: Size, x: Tensor, backward: bool) -> Callable[[], Any]:
    """rows @ weight of the layer's FLOPs; with ``backward`` also its two gradients, products of as many FLOPs."""
    rows = round(size.flops / (2 * size.dim * 2 * size.width))
    a, w, d_y = (torch.randn(shape, device=x.device).to(x.dtype) for shape in
                 ((rows, size.dim), (size.dim, 2 * size.width), (rows, 2 * size.width)))  # fmt: skip
    y, d_a, d_w = torch.empty_like(d_y), torch.empty_like(a), torch.empty_like(w)

    def run() -> None:
        torch.mm(a, w, out=y)
        if backward:
            torch.mm(d_y, w.t(), out=d_a)
            torch.mm(a.t(), d_y, out=d_w)

    return run


def gate_case(layer: nn.Module, x: Tensor, backward: bool) -> Callable[[], Any]:
    """The gate alone, up to the list of pairs; with ``backward`` its gradients."""
    gate, types = layer.gate, torch.zeros(len(x), dtype=torch.int64, device=x.device)
    if not backward:
        return torch.no_grad()(lambda: gate(x, types))
    x = x.detach().requires_grad_()
    wanted = [x, *gate.parameters()]
    return lambda: torch.autograd.grad(gate(x, types).weight_P.sum(), wanted)


def dispatch_case(layer: nn.Module, x: Tensor, d_y: Tensor, backward: bool) -> Callable[[], Any]:
    """What arranges and moves rows in the fused experts, without their products: gathered and added up by group."""
    with torch.no_grad():
        routing = layer.gate(x, torch.zeros(len(x), dtype=torch.int64, device=x.device))
    multiple = row_multiple(x.device, product_type(x))
    passes = [(x,), (d_y, x)] if backward else [(x,)]  # what is gathered in each pass; one sum is made in each

    def run() -> None:
        counts = routing.tokens_per_expert_E.tolist()
        token_R, _, _, groups = arrange(routing.token_P, routing.weight_P, counts, multiple)
        buffer = x.new_empty(max(map(len, groups)), x.shape[1])
        for sources in passes:
            total = zeros_to_sum(x)
            for group in groups:
                token, rows = token_R[group.rows], buffer[: len(group)]
                for source in sources:
                    torch.index_select(source, 0, token, out=rows)
                total.index_add_(0, token, rows.to(total.dtype))
            total.to(x.dtype)

    return run


def time_in_turns(
    cases: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float], renew: Callable[[], Any]
) -> dict[str, list[float]]:
    """Seconds of each case, one case after another in every repeat; each has run once before.

    ``renew`` follows each repeat. It gives new tokens, as training does: then each expert has another number of rows,
    and code that a library compiled for the numbers of before does not serve.
    """

    def seconds(run: Callable[[], Any]) -> float:
        synchronize()
        start = clock()
        run()
        synchronize()
        return clock() - start

    warm = {name: seconds(run) for name, run in cases.items()}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats):
        for name, run in cases.items():
            if warm[name] <= SLOW_S or repeat < SLOW_REPEATS:
                times[name].append(seconds(run))
        renew()
    return times


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(size: Size, dtype: torch.dtype, device: torch.device, args: Any, advance: Callable[[], Any]) -> list[dict]:
    """Forward, and forward with backward, at one size in one type."""
    layers = make_layers(size, dtype, device)
    skipped = {}
    if size.batched_mm_gib > args.memory_gib:
        del layers["batched_mm"]
        skipped["batched_mm"] = f"would take {size.batched_mm_gib:.0f} GiB (--memory-gib {args.memory_gib:g})"
    x, d_y = (torch.randn(1, size.tokens, size.dim, device=device).to(dtype) for _ in range(2))
    types = torch.zeros(size.tokens, dtype=torch.int64, device=device)
    layers["topany"].gate.calibrate(x[0], types)
    same = check_equal(layers, x, d_y)
    mean_k = float(layers["topany"].gate(x[0], types).mask_TE.sum(-1).float().mean())
    results = []

    def renew() -> None:
        x.normal_()
        advance()

    for backward in (False, True):
        cases = make_cases(layers, x, d_y, size, backward)
        times = time_in_turns(cases, args.repeats, CLOCKS[args.clock], renew)
        ms = {name: 1e3 * statistics.median(values) for name, values in times.items()}
        results.append({
            **vars(size), "dtype": str(dtype).removeprefix("torch."),
            "pass": "forward+backward" if backward else "forward",
            "ratios": ratios(ms), "ms": {name: round(value, 3) for name, value in ms.items()},
            "repeats": {name: len(values) for name, values in times.items()}, "skipped": skipped,
            "same_experts": round(same, 4), "topany_mean_k": round(mean_k, 3),
        })  # fmt: skip
    return results


def ratios(ms: dict[str, float]) -> dict[str, float]:
    """How many times faster than each other thing ours is, and the share of gate and dispatch in it."""
    best = min(ms[name] for name in THEIRS if name in ms)
    values = {f"topk / {name}": ms[name] / ms["topk"] for name in (*THEIRS, "loop", "dense") if name in ms}
    for name in ("topk", "topany"):
        values[f"{name} / best of transformers"] = best / ms[name]
        values[f"{name}: share of gate and dispatch"] = (ms[f"{name}: gate"] + ms[f"{name}: dispatch"]) / ms[name]
    values["topany / dense"] = ms["dense"] / ms["topany"]
    return {name: round(value, 3) for name, value in values.items()}


def print_tables(console: Console, results: list[dict]) -> None:
    """One table per size: a line per ratio, a column per type and pass."""
    for size in dict.fromkeys(tuple(row[name] for name in Size.__dataclass_fields__) for row in results):
        chosen = [row for row in results if tuple(row[name] for name in Size.__dataclass_fields__) == size]
        table = Table(title=f"tokens, dim, width, experts, k = {', '.join(map(str, size))}", title_justify="left")
        table.add_column("our speed / theirs")
        for row in chosen:
            kind, way = row["dtype"].replace("bfloat16", "bf16"), row["pass"].replace("forward+backward", "fwd+bwd")
            table.add_column(f"{kind}\n{way}", justify="right")
        for name in dict.fromkeys(name for row in chosen for name in row["ratios"]):
            kind = "{:.0%}" if "share" in name else "{:.2f}"
            table.add_row(name, *(kind.format(row["ratios"][name]) for row in chosen))
        console.print(table)
        for reason in sorted({f"{name} left out: {why}" for row in chosen for name, why in row["skipped"].items()}):
            console.print(reason)


def about(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The machine, the versions and the settings."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load": [round(n, 1) for n in os.getloadavg()],
        "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version(),
        "commit": commit("moe", "kernels", "scripts/bench_moe.py"), "clock": args.clock, "max_repeats": args.repeats,
    }  # fmt: skip


def main() -> int:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=Size.parse, nargs="+", default=[Size.parse(text) for text in SIZES],
                        metavar="T,D,F,E,K", help=f"default: {' '.join(SIZES)}")  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=11, help="default 11; slow cases are repeated 3 times")
    parser.add_argument("--threads", type=int, help="default: torch's own number")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall",
                        help="cpu: the process's CPU time, for one thread on a shared machine")  # fmt: skip
    parser.add_argument("--device", default="cpu", help="default cpu")
    parser.add_argument("--memory-gib", type=float, default=4.0, help="a case that takes more is left out; default 4")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "moe.jsonl", help="where the row goes")
    parser.add_argument("--json", action="store_true", help="print the row instead of tables")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats ({args.repeats}) must be 1 or more")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if device.type == "cpu":
        keep_freed_memory()  # as training does; for all that is compared
    results: list[dict] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(args.sizes) * len(args.dtype) * 2 * args.repeats)
        for size in args.sizes:
            for dtype in args.dtype:
                progress.update(task, description=f"{','.join(map(str, vars(size).values()))} {dtype}")
                results += measure(size, getattr(torch, dtype), device, args, lambda: progress.advance(task))
    row = {**about(args, device), "results": results}
    append_row(args.out, row)
    if args.json:
        print(json.dumps(row))
    else:
        console = Console()
        console.print(", ".join(f"{key} {value}" for key, value in row.items() if key != "results"))
        print_tables(console, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
