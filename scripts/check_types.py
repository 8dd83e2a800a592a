"""Run mypy over the package in the shape it is imported in: ``python scripts/check_types.py [mypy options]``.

``moe/gate.py`` is imported as ``timeexpert.moe.gate``, which type checkers cannot know from the folders of a
checkout. ``.typecheck/timeexpert`` is a folder of links in the installed shape; mypy and editors read that
(pyright: ``{"extraPaths": [".typecheck"]}``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIBLINGS = ("moe", "tokenization", "stages", "kernels", "configs")


def make_farm(farm: Path) -> None:
    """Fill ``farm`` afresh with links to every entry of ``timeexpert/`` and to its sibling folders."""
    shutil.rmtree(farm, ignore_errors=True)
    farm.mkdir(parents=True)
    entries = [entry for entry in (ROOT / "timeexpert").iterdir() if entry.name != "__pycache__"]
    entries += [ROOT / name for name in SIBLINGS if (ROOT / name).is_dir()]
    for entry in entries:
        (farm / entry.name).symlink_to(os.path.relpath(entry, farm))


def main() -> int:
    """Make the links and run mypy on them."""
    farm = ROOT / ".typecheck" / "timeexpert"
    make_farm(farm)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "timeexpert"]
    # mypy starts inside .typecheck: in the root it would find timeexpert/ without its siblings.
    cache = ["--cache-dir", str(ROOT / ".mypy_cache")]
    return subprocess.run([*command, *cache, *sys.argv[1:]], cwd=farm.parent, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
