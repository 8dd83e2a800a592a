"""Which code runs where, and what is said where it cannot."""

from __future__ import annotations

import re

import pytest
import torch

from timeexpert.kernels import backend
from timeexpert.kernels.backend import KernelError, use_triton

CPU = torch.device("cpu")


def test_auto_on_a_cpu_is_torch_unless_the_interpreter_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not use_triton("auto", CPU, torch.float32)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert use_triton("auto", CPU, torch.float32) and use_triton("triton", CPU, torch.bfloat16)
    assert not use_triton("torch", CPU, torch.float32)


def test_float64_is_computed_by_the_reference() -> None:
    assert not use_triton("auto", CPU, torch.float64)


def test_an_old_gpu_is_left_to_torch(no_interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old")
    assert not use_triton("auto", torch.device("cuda"), torch.float32)
    with pytest.raises(KernelError, match=re.escape("Old has a compute capability below 8.0")):
        use_triton("triton", torch.device("cuda"), torch.float32)


@pytest.mark.parametrize(
    ("name", "dtype", "words"),
    [
        ("cuda", torch.float32, "backend ('cuda') must be one of auto, triton, torch."),
        ("triton", torch.float32, "the tensors are on cpu. Move them to a GPU, or set TRITON_INTERPRET=1 before"),
        ("triton", torch.float64, "the kernels do not take torch.float64. Cast to one of torch.float32"),
    ],
)
def test_a_backend_that_cannot_run_is_refused(no_interpreter: None, name: str, dtype: torch.dtype, words: str) -> None:
    with pytest.raises(KernelError, match=re.escape(words)):
        use_triton(name, CPU, dtype)


def test_without_triton_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert not use_triton("auto", CPU, torch.float32)
    with pytest.raises(KernelError, match="triton is not installed. Install the extra 'triton'"):
        use_triton("triton", CPU, torch.float32)
