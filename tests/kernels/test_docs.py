"""The code in docs/kernels.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOC = Path(__file__).resolve().parent.parent.parent / "docs" / "kernels.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize(("block", "made"), [(BLOCKS[0], "y"), (BLOCKS[1], "model")])
def test_code_of_the_page_runs(block: str, made: str) -> None:
    names: dict[str, object] = {}
    exec(compile(block, str(DOC), "exec"), names)
    assert made in names and len(BLOCKS) == 2
