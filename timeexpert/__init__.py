"""TimeExpert: a mixture-of-experts video LLM that says when things happen.

The folders ``moe``, ``tokenization``, ``stages`` and ``kernels`` stand beside this one in a source
checkout and are installed inside it; either way they are imported as ``timeexpert.moe`` and so on.
Public names are loaded when they are first used, so that evaluation does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from os.path import abspath, dirname, isdir, isfile, join
from typing import Any

__version__ = "0.1.0"

_root = dirname(dirname(abspath(__file__)))
if isfile(join(_root, "setup.py")) and isdir(join(_root, "moe")):
    __path__.append(_root)

_PUBLIC = {
    "Event": ("timeexpert.tokenization", "Event"),
    "EventSequence": ("timeexpert.tokenization", "EventSequence"),
    "NumberFormat": ("timeexpert.tokenization", "NumberFormat"),
    "Sample": ("timeexpert.data.records", "Sample"),
    "Predictor": ("timeexpert.predict", "Predictor"),
    "load_config": ("timeexpert.config", "load"),
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'timeexpert' has no attribute {name!r}")
