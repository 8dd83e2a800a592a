"""Every kernel compiles for an H100, where the interpreter says nothing of types, layouts and sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
MATRIX = {"swiglu_kernel", "rows_kernel", "weights_kernel", "gate_kernel", "backward_kernel", "weight_kernel"}
OTHERS = {"swiglu_backward_kernel", "combine_kernel", "combine_backward_kernel"}
OTHERS |= {"count_kernel", "place_kernel", "norm_kernel"}


@pytest.mark.slow
@pytest.mark.skipif(torch.version.hip is not None, reason="compiles for NVIDIA")
def test_kernels_compile_for_hopper_and_use_its_matrix_units(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "compile_kernels.py"), "--arch", "90", "--first", "--json"]
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    env.pop("TRITON_INTERPRET", None)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)
    assert {r["kernel"] for r in records} == MATRIX | OTHERS
    for record in records:
        assert record["fits"] and record["spilled"] <= 128, record  # bytes; 0 to 100 with triton 3.4 to 3.9
        assert record["matrix"] == ("wgmma" if record["kernel"] in MATRIX else "-"), record
