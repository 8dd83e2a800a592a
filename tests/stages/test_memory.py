from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A process of its own: in ours, tests before this one have raised the peak that the kernel keeps.
MEASURE = """
import json, subprocess, sys
from timeexpert.stages.memory import PeakMemory
memory, seen = PeakMemory(), []
memory.sample(); seen.append(memory.gib)
hold = "x = bytes(range(256)) * 800_000; print('held', flush=True); input()"  # 0.19 GiB
with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
    child.stdout.readline()
    memory.sample(); seen.append(memory.gib)
    child.communicate(b"\\n")
memory.sample(); seen.append(memory.gib)
print(json.dumps(seen))
"""


def test_memory_of_workers_counts_and_the_peak_remains_after_they_end() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, env=environment)
    alone, both, after = json.loads(said.stdout)
    assert alone > 0.01
    assert 0.15 < both - alone < 0.3
    assert after == both
