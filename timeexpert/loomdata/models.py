"""Loading models and processors of transformers with errors that name the setting."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from timeexpert.errors import UserError


def load_pretrained(kind: Any, name: str, setting: str, device: str | None = None) -> Any:
    """``kind.from_pretrained(name)``; with ``device`` it is a model, which goes there, in evaluation mode.

    Raises ``UserError`` that names ``setting`` where the folder or hub name gives no such thing.
    """
    try:
        made = kind.from_pretrained(name)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{setting} ({name!r}): {kind.__name__} cannot be read from it: {reason} Give the folder of a model saved "
            "by transformers with its processor, or its name on the hub."
        ) from None
    if device is not None:
        from timeexpert.predict import pick_device

        made = made.to(pick_device(device)).eval()
    return made


def identity(name: str) -> str:
    """What tells two models apart: of a folder a hash of its files, names and contents; of the hub the name alone."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        with open(path, "rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()
