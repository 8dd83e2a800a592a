"""Every kernel compiles for GPUs that are not here: the interpreter says nothing of types, layouts and sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
MATRIX = {"swiglu_kernel", "rows_kernel", "weights_kernel", "gate_kernel", "backward_kernel", "weight_kernel"}
OTHERS = {"swiglu_backward_kernel", "combine_kernel", "combine_backward_kernel"}
OTHERS |= {"count_kernel", "place_kernel", "norm_kernel"}


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.version.hip is not None, reason="compiles for NVIDIA"),
]


def compiled(folder: Path, *args: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(ROOT / "scripts" / "compile_kernels.py"), "--first", "--json", *args]
    env = {**os.environ, "TRITON_CACHE_DIR": str(folder)}
    env.pop("TRITON_INTERPRET", None)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)
    assert {r["kernel"] for r in records} == MATRIX | OTHERS
    return records


def test_kernels_compile_for_hopper_and_use_its_matrix_units(tmp_path: Path) -> None:
    for record in compiled(tmp_path, "--arch", "90"):
        assert record["fits"] and record["spilled"] <= 128, record  # bytes; 0 to 100 with triton 3.4 to 3.9
        few = record["config"].get("BLOCK_M") == 16  # wgmma takes 64 rows or more
        products = record["kernel"] in MATRIX
        assert record["matrix"] == (("mma" if few else "wgmma") if products else "-"), record


def test_kernels_in_exact_float32_compile_for_ampere(tmp_path: Path) -> None:
    for record in compiled(tmp_path, "--arch", "80", "--type", "fp32"):
        assert record["fits"] and record["spilled"] <= 128, record
        assert record["matrix"] == "-", record
