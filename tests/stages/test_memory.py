from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

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

FAULTS = """
import json, resource, torch
from timeexpert.stages.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
fresh, kept = faults(), keep_freed_memory()
faults()
print(json.dumps([fresh, kept, faults()]))
"""


def run(code: str) -> list:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return json.loads(said.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_used_again_without_fresh_pages() -> None:
    fresh, kept, again = run(FAULTS)
    assert kept
    assert fresh > 4000  # 64 MiB eight times, pages of 4 KiB or, where the system gives them, some larger ones
    assert again <= fresh / 4  # a block may still come to lie elsewhere once


def test_memory_of_workers_counts_and_the_peak_remains_after_they_end() -> None:
    alone, both, after = run(MEASURE)
    assert alone > 0.01
    assert 0.15 < both - alone < 0.3
    assert after == both
