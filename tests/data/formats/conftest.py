"""Small files in published formats, written by hand, and short ways to convert them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from timeexpert.data.formats import Converted, ConvertOptions, Rejected, convert
from timeexpert.data.records import Sample

Split = tuple[list[Sample], list[Rejected]]


def split(items: list[Converted]) -> Split:
    """Samples and rejections, apart."""
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


@pytest.fixture
def convert_file() -> Callable[..., Split]:
    """``convert_file(name, path, **options)`` -> (samples, rejections)."""

    def run(name: str, path: Path, **options: Any) -> Split:
        return split(list(convert(name, path, ConvertOptions(**options))))

    return run


@pytest.fixture
def convert_rows(tmp_path: Path, convert_file: Callable[..., Split]) -> Callable[..., Split]:
    """``convert_rows(name, content, **options)``: text as it is, a list as JSON lines, an object as JSON."""

    def run(name: str, content: Any, **options: Any) -> Split:
        path = tmp_path / "file.json"
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif isinstance(content, list):
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
        return convert_file(name, path, **options)

    return run
