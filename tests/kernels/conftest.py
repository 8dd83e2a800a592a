"""The kernels run compiled where there is a GPU, and in Triton's interpreter where there is none.

``tests/conftest.py`` has let triton itself be imported for the interpreter; here our kernels follow. Only these tests
see the variable: everywhere else ``auto`` means plain torch on a CPU.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec

import pytest
import torch

HAS_TRITON = find_spec("triton") is not None
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KERNELS = ("triton_gate", "triton_permutation", "triton_experts", "triton_combine")

if HAS_TRITON:
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE.type == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        for name in KERNELS:
            importlib.import_module(f"timeexpert.kernels.{name}")


@pytest.fixture(autouse=True)
def kernels_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    if not HAS_TRITON:
        pytest.skip("triton is not installed: pip install -e '.[triton]'")
    if DEVICE.type == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def device() -> torch.device:
    return DEVICE


@pytest.fixture
def no_interpreter(kernels_can_run: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if DEVICE.type == "cpu":
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA or ROCm device"))
