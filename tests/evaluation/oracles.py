"""Reads the reference figures: inputs of a case and what the reference scripts printed for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cases(shared: Path, family: str, reference: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield (name, inputs, expected figures) of each case of ``family`` on which ``reference`` did not crash."""
    files = sorted((shared / "oracles" / family).glob("*.json"))
    assert files, f"no oracle files for {family}"
    for file in files:
        for case in json.loads(file.read_text(encoding="utf-8"))["cases"]:
            expected = case["expected"].get(reference)
            if expected is not None and "raises" not in expected:
                yield f"{file.stem}/{case['id']}", case["inputs"], expected
