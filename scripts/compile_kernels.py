"""Compile the Triton kernels for an NVIDIA GPU that need not be here, and print what each program takes of it.

``python scripts/compile_kernels.py [--arch 90] [--type bf16] [--first] [--json]``: every kernel at ARIA's size, in each
config that autotuning would time, or with ``--first`` in the first of them only. Exit code 1 where none of the configs
that a kernel has for many rows per expert fits the GPU, or none for few. Columns: registers per thread, bytes per
thread that spill from them, KiB of shared memory, matrix instructions.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "tf32": "float32"}
SHARED_KIB = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227}  # the most one program may have, by architecture


class NoDriver:
    """Stands where the GPU's driver would: it names the target and launches nothing."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        """The GPU that is compiled for."""
        return self.target

    def get_current_device(self) -> int:
        """Its number."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """A stream on which nothing is launched."""
        return 0


def compile_all(arch: int, kind: str, first_only: bool) -> list[dict[str, Any]]:
    """One record per kernel and config: call every op, and compile its launches instead of running them."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    records: dict[str, dict[str, Any]] = {}
    run = JITFunction.run

    def compile_launch(self: Any, *args: Any, **kwargs: Any) -> None:
        kernel = run(self, *args, **{**kwargs, "warmup": True})
        config = {k: v for k, v in kwargs.items() if k.isupper() or k in ("num_warps", "num_stages")}
        record = {"kernel": self.__name__.strip("_"), "config": config, **usage(kernel)}
        record["fits"] = record["shared_kib"] <= SHARED_KIB[arch]
        records[json.dumps([record["kernel"], config])] = record

    def compile_configs(self: Any, *args: Any, **kwargs: Any) -> None:
        chosen = [self.configs]
        if self.early_config_prune:  # by rows per expert among other things: as for few, and as for many
            named = dict(zip(self.arg_names, args, strict=False))
            loads = ({**named, "rows_each": n} for n in (1024, 16))
            chosen = [self.early_config_prune(self.configs, load, **kwargs) for load in loads]
        for configs in chosen:
            for config in configs[: 1 if first_only else None]:
                self.fn.run(*args, **kwargs, **config.all_kwargs())

    driver.set_active(NoDriver(GPUTarget("cuda", arch, 32)))
    JITFunction.run, Autotuner.run = compile_launch, compile_configs
    call_every_op(kind)
    return list(records.values())


def usage(kernel: Any) -> dict[str, Any]:
    """Registers, spills, shared memory and kind of matrix instruction of a compiled kernel."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(cubin)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", done.stdout + done.stderr)}
    ptx = kernel.asm["ptx"]
    return {
        "registers": numbers["REG"],
        "spilled": numbers["STACK"] + numbers["LOCAL"],
        "shared_kib": round(kernel.metadata.shared / 1024, 1),
        "matrix": "wgmma" if "wgmma.mma_async" in ptx else "mma" if "mma.sync" in ptx else "-",
    }


def call_every_op(kind: str) -> None:
    """Forward and backward at ARIA's size, on memory that is reserved and never touched."""
    import torch

    from timeexpert.kernels import triton_combine, triton_experts, triton_gate, triton_permutation

    T, D, F, E, A = 16384, 2560, 1664, 64, 6
    P = 6 * T

    torch.backends.cuda.matmul.fp32_precision = "tf32" if kind == "tf32" else "ieee"

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=getattr(torch, TYPES[kind]))

    x, rows, gate_up, down = empty(T, D), empty(P, D), empty(E, D, 2 * F), empty(E, F, D)
    token, pair = torch.zeros(P, dtype=torch.int64), torch.zeros(P, dtype=torch.int32)
    expert_offsets, token_offsets = (torch.zeros(n + 1, dtype=torch.int32) for n in (E, T))
    order = (expert_offsets, token, pair, token_offsets)
    triton_experts.swiglu_experts(x, gate_up, down, *order, False)
    _, kept = triton_experts.swiglu_experts(x, gate_up, down, *order, True)
    triton_experts.swiglu_experts_backward(rows, x, gate_up, down, *order, kept, True, True, True)

    weight = torch.empty(P)
    triton_combine.combine(rows, weight, token, pair, token_offsets)
    triton_combine.combine_backward(x, rows, weight, token, token_offsets)
    mask = torch.zeros(T, E, dtype=torch.bool)
    triton_permutation.count_pairs(mask)  # counts nothing here, and what it leaves cannot be summed
    triton_permutation.permute(mask, P, *(torch.zeros(shape, dtype=torch.int32) for shape in ((T // 128, E), (T,))))

    types, active, one = torch.zeros(T, dtype=torch.int64), torch.ones(E, dtype=torch.bool), torch.ones(())
    row, threshold = torch.ones(E, D), torch.ones(E)
    out = triton_gate.gate(x, row, threshold, torch.ones(A, E), types, active, one, one, "top1", "selected")
    scores, norms = out[:3], out[-2:]
    tensors = (*scores, x, row, threshold, active, one, one, *scores, *norms)
    triton_gate.gate_backward(*tensors, "selected", True)


def choice(record: dict[str, Any]) -> str:
    """What autotuning chooses one config for: a kernel, and few or many rows per expert where it tells them apart."""
    return record["kernel"] + (" (few rows)" if record["config"].get("BLOCK_M", 17) <= 16 else "")


def table(records: list[dict[str, Any]]) -> str:
    """The records in columns."""
    lines = [f"{'kernel':24}{'registers':>10}{'spilled':>9}{'KiB':>8}  {'matrix':8}config"]
    for r in records:
        config = " ".join(f"{k}={v}" for k, v in r["config"].items())
        fits = "" if r["fits"] else "  TOO MUCH SHARED MEMORY"
        numbers = f"{r['registers']:>10}{r['spilled']:>9}{r['shared_kib']:>8}"
        lines.append(f"{r['kernel']:24}{numbers}  {r['matrix']:8}{config}{fits}")
    return "\n".join(lines)


def main() -> int:
    """Compile, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, default=90, choices=SHARED_KIB, help="90: H100, H200; 80: A100")
    parser.add_argument(
        "--type", default="bf16", choices=TYPES, help="of tokens and experts; tf32: how torch may multiply"
    )
    parser.add_argument("--first", action="store_true", help="only the first config of each kernel")
    parser.add_argument("--json", action="store_true", help="print records")
    args = parser.parse_args()
    if os.environ.pop("TRITON_INTERPRET", None):
        print("note: TRITON_INTERPRET is ignored: nothing is run here", file=sys.stderr)
    try:
        import triton  # noqa: F401
    except ImportError:
        sys.exit("error: triton is not installed: pip install -e '.[triton]'")
    records = compile_all(args.arch, args.type, args.first)
    print(json.dumps(records) if args.json else table(records))
    missing = sorted({choice(r) for r in records} - {choice(r) for r in records if r["fits"]})
    if missing:
        print(f"error: no config fits a GPU of architecture {args.arch}: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
