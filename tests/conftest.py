"""Fixtures that every test may use."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if find_spec("triton") is not None and not torch.cuda.is_available():
    # tests/kernels needs Triton's interpreter. It is chosen when triton is first imported, which transformers may do.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import triton  # noqa: F401

from tests.tiny import tiny_data, tiny_run  # noqa: F401 (fixtures of every test that needs a run)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material (annotations, oracles, clips); tests that need it skip where it is absent."""
    path = Path(os.environ.get("TIMEEXPERT_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"reference material is absent: set TIMEEXPERT_SHARED or put it at {path}")
    return path
