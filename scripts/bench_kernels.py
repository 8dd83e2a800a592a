"""Speed of the Triton kernels on a GPU, as ratios to what the same GPU does in the same run.

``python scripts/bench_kernels.py [--repeats 30] [--json]``, at ARIA's size by default (T = 16384 tokens, d = 2560,
expert width 1664, 64 experts, 6 per token on average) in bfloat16. Products are compared with one dense matmul of the
same FLOPs, the gate and what moves rows with a copy of 1 GiB, the experts of a layer with the fastest of transformers'
implementations. The script stops unless the experts give the same tokens and gradients as transformers'. Every figure
is the median of repeats that take turns, so that clocks and heat are the same for all. A ratio of 1 is the speed of
what is compared with; more is faster. ``wanted`` is the ratio that is aimed at.

``--dry-run`` checks the results and runs everything once at a tiny size, on a CPU too (with TRITON_INTERPRET=1), and
prints no figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from machine import commit
from torch import Tensor
from transformers import AriaTextConfig
from transformers.models.aria.modeling_aria import AriaExperts

from timeexpert.kernels.backend import KernelError, use_triton
from timeexpert.kernels.experts import combine, experts_forward
from timeexpert.kernels.gate import gate
from timeexpert.kernels.permutation import Permutation, permute

BF16 = torch.bfloat16
THEIRS = ("eager", "batched_mm", "grouped_mm")
PRODUCTS, MOVES, LAYER = 0.6, 0.5, 1.0  # the ratios that are aimed at
NO_GPU = (
    "error: no GPU here, and nothing to measure: the interpreter's speed says nothing of the kernels'. Run this on a "
    "machine with a CUDA or ROCm GPU and triton, or with --dry-run and TRITON_INTERPRET=1 to see that it runs."
)


@dataclass(frozen=True)
class Case:
    """Something to time: the FLOPs it computes or the bytes it has to move, what its rate is held against (the fastest
    of these), and the ratio that is aimed at."""

    name: str
    run: Callable[[], Any]
    flops: float = 0.0
    bytes: float = 0.0
    against: tuple[str, ...] = ()
    wanted: float | None = None


def make_cases(
    T: int, D: int, F: int, E: int, k: int, copy_bytes: int, memory: float, device: torch.device
) -> list[Case]:
    """All cases, on random data: with zeros a GPU draws less power and runs faster.

    ``memory``: bytes that a case may take beyond what all share; transformers' batched_mm is left out where it needs
    more.
    """

    def rand(*shape: int, dtype: torch.dtype = BF16, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, device=device) * scale).to(dtype)

    x, d_y = rand(T, D), rand(T, D)
    gate_up, down = rand(E, D, 2 * F, scale=D**-0.5), rand(E, F, D, scale=F**-0.5)
    mask = torch.rand(T, E, device=device) < k / E  # k on average, as the top-any gate gives them
    order = permute(mask)
    rows = rand(order.token_P.numel(), D)
    index = torch.rand(T, E, device=device).topk(k).indices  # transformers' experts take k of every token
    return [
        *product_cases(x, rows, gate_up, down, order),
        *moving_cases(x, rows, mask, order, rand, copy_bytes),
        *layer_cases(x, d_y, gate_up, down, index, memory),
    ]


def product_cases(x: Tensor, rows: Tensor, gate_up: Tensor, down: Tensor, order: Permutation) -> list[Case]:
    """Grouped products and gradients of weights against one dense product of the same FLOPs."""
    from timeexpert.kernels.triton_gemm import rows_times_weight, swiglu_rows, weight_gradient

    offsets, token = order.expert_offsets_E1, order.token_P
    up_flops, down_flops = (2.0 * rows.shape[0] * weight[0].numel() for weight in (gate_up, down))
    hidden, both = swiglu_rows(x, gate_up, offsets, token, True)
    return [
        Case("dense gate_up", lambda: rows @ gate_up[0], up_flops),
        Case("dense down", lambda: hidden @ down[0], down_flops),
        Case(
            "gather + gate_up + SwiGLU", lambda: swiglu_rows(x, gate_up, offsets, token, True), up_flops,
            against=("dense gate_up",), wanted=PRODUCTS,
        ),
        Case(
            "down", lambda: rows_times_weight(hidden, down, offsets, None), down_flops, against=("dense down",),
            wanted=PRODUCTS,
        ),
        Case(
            "gradient of rows, gate_up", lambda: rows_times_weight(both, gate_up.transpose(1, 2), offsets, None),
            up_flops, against=("dense gate_up",), wanted=PRODUCTS,
        ),
        Case(
            "gradient of gate_up", lambda: weight_gradient(x, both, offsets, token, gate_up), up_flops,
            against=("dense gate_up",), wanted=PRODUCTS,
        ),
        Case(
            "gradient of down", lambda: weight_gradient(hidden, rows, offsets, None, down), down_flops,
            against=("dense down",), wanted=PRODUCTS,
        ),
    ]  # fmt: skip


def moving_cases(
    x: Tensor, rows: Tensor, mask: Tensor, order: Permutation, rand: Callable[..., Tensor], copy_bytes: int
) -> list[Case]:
    """Gate, permutation and combination against a plain copy."""
    (T, D), E, P = x.shape, mask.shape[1], rows.shape[0]
    weight, threshold = rand(E, D, dtype=torch.float32), torch.full((E,), 0.02, device=x.device)
    types, rates = torch.zeros(T, dtype=torch.int64, device=x.device), torch.zeros(6, E, device=x.device)
    active = torch.ones(E, dtype=torch.bool, device=x.device)
    scale, alpha = torch.ones((), device=x.device), torch.zeros((), device=x.device)
    source = torch.empty(copy_bytes // 2, dtype=BF16, device=x.device).normal_()
    target = torch.empty_like(source)
    pairs = order.mean_weights()
    lists = T * E + P * (8 + 8 + 4)  # the mask, and the lists of Permutation
    return [
        Case("copy", lambda: target.copy_(source), bytes=2.0 * source.numel() * 2),
        Case(
            "gate", lambda: gate(x, weight, threshold, rates, types, active, scale=scale, alpha=alpha),
            bytes=2.0 * T * D + T * E * (3 * 4 + 1), against=("copy",), wanted=MOVES,
        ),
        Case("index lists", lambda: permute(mask, num_pairs=P), bytes=float(lists), against=("copy",)),
        Case(
            "permutation (lists + rows)",
            lambda: x.index_select(0, permute(mask, num_pairs=P).token_P), bytes=lists + 2.0 * (T + P) * D,
            against=("copy",), wanted=MOVES,
        ),
        Case("combine", lambda: combine(rows, pairs, order), bytes=2.0 * (P + T) * D, against=("copy",)),
    ]  # fmt: skip


def layer_cases(x: Tensor, d_y: Tensor, gate_up: Tensor, down: Tensor, index: Tensor, memory: float) -> list[Case]:
    """Routed experts from indices to tokens, forward and forward + backward: ours, and each of transformers'."""
    trained = [t.clone().requires_grad_() for t in (x, gate_up, down)]
    layers = {name: theirs(name, trained[1], trained[2], index) for name in THEIRS}
    if 2.0 * index.numel() * (gate_up[0].numel() + down[0].numel()) * x.element_size() > memory:
        del layers["batched_mm"]  # a copy of the weights of each pair, twice in its backward pass
    mask = torch.zeros(x.shape[0], gate_up.shape[0], dtype=torch.bool, device=x.device).scatter(1, index, True)

    def ours(tokens: Tensor) -> Tensor:
        order = permute(mask, num_pairs=index.numel())
        return experts_forward(tokens, trained[1], trained[2], order, order.mean_weights())

    def forward(layer: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return torch.no_grad()(lambda: layer(x))

    def both(layer: Callable[[Tensor], Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(layer(trained[0]), trained, d_y)

    check_equal(forward(ours)(), forward(layers["grouped_mm"])(), "y")
    for name, got, want in zip(("dx", "dgate_up", "ddown"), both(ours)(), both(layers["grouped_mm"])(), strict=True):
        check_equal(got, want, name)
    flops = 2.0 * index.numel() * (gate_up[0].numel() + down[0].numel())
    cases = []
    for what, way, times in (("forward", forward, 1), ("forward + backward", both, 3)):
        names = {name: f"experts, transformers {name}, {what}" for name in layers}
        cases += [Case(names[name], way(layer), times * flops) for name, layer in layers.items()]
        cases.append(Case(f"experts, {what}", way(ours), times * flops, against=tuple(names.values()), wanted=LAYER))
    return cases


def theirs(name: str, gate_up: Tensor, down: Tensor, index: Tensor) -> Callable[[Tensor], Tensor]:
    """ARIA's experts of transformers in one of its implementations, on our weights."""
    (E, D, _), F = gate_up.shape, down.shape[1]
    config = AriaTextConfig(hidden_size=D, intermediate_size=F, moe_num_experts=E, moe_topk=index.shape[1])
    config._experts_implementation = name
    with torch.device("meta"):
        experts = AriaExperts(config)
    del experts.gate_up_proj, experts.down_proj
    experts.gate_up_proj, experts.down_proj = gate_up, down
    weights = torch.full(index.shape, 1 / index.shape[1], dtype=gate_up.dtype, device=index.device)
    return lambda tokens: experts(tokens, index, weights)


def check_equal(got: Tensor, want: Tensor, what: str) -> None:
    """Exits where two results differ by more than bf16 rounds: their speeds could not be compared."""
    error = float((got.float() - want.float()).norm() / want.float().norm())
    if not error <= 2e-2:
        sys.exit(f"error: {what} of our experts and transformers' differ by {error:.2e}: not the same work.")


def time_in_turns(cases: list[Case], repeats: int) -> dict[str, float]:
    """Median milliseconds of each case, by the GPU's own clock, one case after another in every repeat.

    Before each, memory is filled: that empties the cache of what the last one left, and keeps the GPU busy until the
    case's first launches wait in its queue.
    """
    flush = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    for case in cases:  # compile, choose configs, fill the allocator
        for _ in range(3):
            case.run()
    times: dict[str, list[float]] = {case.name: [] for case in cases}
    for _ in range(repeats):
        for case in cases:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            start.record()
            case.run()
            end.record()
            end.synchronize()
            times[case.name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def records(cases: list[Case], ms: dict[str, float]) -> list[dict[str, Any]]:
    """Rates, and the ratio of each rate to the one it is held against."""

    def rate(case: Case) -> float:
        return (case.flops / 1e12 or case.bytes / 1e9) / (ms[case.name] / 1e3)

    rates = {case.name: rate(case) for case in cases}
    out = []
    for case in cases:
        record = {"name": case.name, "flops": case.flops, "bytes": case.bytes, "wanted": case.wanted}
        record |= {"ms": ms[case.name], "rate": rates[case.name], "unit": "TFLOP/s" if case.flops else "GB/s"}
        fastest = max(case.against, key=rates.__getitem__, default=None)
        record |= {"against": fastest, "ratio": rates[case.name] / rates[fastest] if fastest else None}
        out.append(record)
    return out


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line per case."""
    print(f"{'':58}{'ms':>9}{'rate':>9}           ratio")
    for r in rows:
        ratio = f"{r['ratio']:.2f} of {r['against']}" if r["ratio"] else ""
        ratio += f" (wanted: {r['wanted']:.2f})" if r["wanted"] else ""
        print(f"{r['name']:58}{r['ms']:>9.3f}{r['rate']:>9.0f} {r['unit']:8}  {ratio}")


def main() -> int:
    """Measure and print; exit code 2 where there is no GPU to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("tokens", 16384), ("dim", 2560), ("width", 1664), ("experts", 64), ("k", 6), ("repeats", 30)):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--dry-run", action="store_true", help="run everything once at a tiny size, print no figure")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        use_triton("triton", device, BF16)
    except KernelError as error:
        print(f"error: {error}" if torch.cuda.is_available() else NO_GPU, file=sys.stderr)
        return 2
    if args.dry_run:
        for case in make_cases(40, 32, 16, 4, 2, 1 << 10, 1e9, device):
            case.run()
            print(f"ran: {case.name}")
        return 0
    if device.type == "cpu":
        print(NO_GPU, file=sys.stderr)
        return 2
    memory = torch.cuda.mem_get_info()[0] / 4
    cases = make_cases(args.tokens, args.dim, args.width, args.experts, args.k, 1 << 30, memory, device)
    rows = records(cases, time_in_turns(cases, args.repeats))
    about = {
        "gpu": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "triton": __import__("triton").__version__,
        "commit": commit("moe", "kernels", "scripts/bench_kernels.py"),
        **{name: getattr(args, name) for name in ("tokens", "dim", "width", "experts", "k", "repeats")},
    }
    if args.json:
        print(json.dumps({**about, "cases": rows}))
    else:
        print(", ".join(f"{key} {value}" for key, value in about.items()))
        print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
