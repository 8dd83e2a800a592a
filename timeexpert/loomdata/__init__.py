"""Videos to samples with times and masks (VideoLoom's LoomData pipeline). See docs/loomdata.md.

Public names are loaded when they are first used: worker processes that decode import no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {"Adapters": "steps", "AnnotateConfig": "config", "AnnotateReport": "run", "annotate": "run"}
__all__ = ["Adapters", "AnnotateConfig", "AnnotateReport", "annotate"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
