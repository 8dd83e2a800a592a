"""Rows of benchmarks/: what one says of the machine and of the code, and how it is kept."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def cpu_name() -> str:
    """As Linux calls it, where it does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit(*paths: str) -> str:
    """The checkout's commit, with + where ``paths`` were changed since; or unknown, also without git."""

    if shutil.which("git") is None:
        return "unknown"

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", *paths)
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Write ``row`` as one more line of ``path``, whose folder is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
