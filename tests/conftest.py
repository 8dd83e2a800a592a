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

from tests.masked import drawing  # noqa: F401
from tests.tiny import tiny_data, tiny_run  # noqa: F401 (fixtures of every test that needs a run)

ROOT = Path(__file__).resolve().parent.parent

# Files of half a minute and more begin first: one that begins last leaves the other workers idle.
LONGEST = (
    "faults/test_ranks.py",
    "stages/test_parallel_training.py",
    "stages/test_resume.py",
    "faults/test_two_hosts.py",
    "scripts/test_reproduce.py",
    "kernels/test_compile.py",
    "kernels/test_experts.py",
    "scripts/test_train_node.py",
    "scripts/test_ablate.py",
)


def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: one process more than cores, at most 8. Tests of hangs and of lost hosts mostly wait."""
    return min(len(os.sched_getaffinity(0)) + 1, 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by how long they take, as far as ``LONGEST`` knows; within a file the order stays."""
    rank = {str(ROOT / "tests" / name): place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(str(item.path), len(rank)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material (annotations, oracles, clips); tests that need it skip where it is absent."""
    path = Path(os.environ.get("TIMEEXPERT_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"reference material is absent: set TIMEEXPERT_SHARED or put it at {path}")
    return path
