"""The plan of small models against what torch allocates and multiplies in real training steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MEMORY = 0.06  # as docs/planner.md says
FLOPS = 1e-6


@pytest.mark.slow
def test_memory_and_flops_are_those_of_real_steps():
    command = [sys.executable, str(ROOT / "scripts" / "check_planner.py"), "--few", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert len(rows) == 4
    for row in rows:
        assert abs(row["memory_error"]) < MEMORY, row
        assert abs(row["flops_error"]) < FLOPS, row
