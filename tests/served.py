"""``timeexpert serve`` in a process of its own, as people start it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def served(*options: str, model: str | Path = "checkpoints/tiny", **environment: str) -> Iterator[str]:
    """Its address, like http://127.0.0.1:8000; at the end it is told to stop, and must stop."""
    command = [sys.executable, "-u", "-m", "timeexpert", "serve", str(model), "--port", "0", "--device", "cpu"]
    env = {**os.environ, "NO_COLOR": "1", **environment}
    with subprocess.Popen([*command, *options], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith(f"{Path(model).name} answers at http://127.0.0.1:")
            yield line.split(" at ")[1].split("/v1/")[0]
            process.terminate()
            assert process.wait(timeout=60) == 0
            assert process.stdout.read() == "stopped\n"
        finally:
            process.kill()
