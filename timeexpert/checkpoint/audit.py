"""All finished folders of a run against their manifests, and what a run would go on from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from .folder import MANIFEST, CheckpointError, verify
from .state import TRAINER_STATE


@dataclass(frozen=True)
class Audit:
    """One folder. ``problem``: empty where every byte is as it was written."""

    folder: Path
    files: int
    size: int  # bytes
    global_step: int | None  # of a checkpoint
    problem: str
    state: str = "whole"


def audit(path: Path) -> list[Audit]:
    """The checkpoint or model folder ``path``, or those of the run ``path``.

    Raises :class:`CheckpointError` where there is none.
    """
    if (path / MANIFEST).is_file() or (path / TRAINER_STATE).is_file():
        return [_audit(path)]
    folders = sorted(p for kind in ("checkpoints", "models") for p in (path / kind).glob("*") if p.is_dir())
    rows = [_audit(folder) for folder in folders if not folder.name.startswith(".")]
    if not rows:
        raise CheckpointError(
            f"{path}: neither a checkpoint (no {MANIFEST}) nor a run with checkpoints/ or models/ in it. Give a folder "
            "under RUN/checkpoints or RUN/models, or a run."
        )
    resumable = [row for row in rows if row.global_step is not None and not row.problem]
    newest = max(resumable, key=lambda row: row.global_step or 0, default=None)
    return [replace(row, state="whole; training goes on from here") if row is newest else row for row in rows]


def _audit(folder: Path) -> Audit:
    files = [p for p in folder.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    step: int | None = None
    try:
        verify(folder)
        if (folder / TRAINER_STATE).is_file():
            step = int(json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))["global_step"])
    except CheckpointError as error:
        return Audit(folder, len(files), size, None, str(error))
    except (ValueError, KeyError, TypeError) as error:
        return Audit(folder, len(files), size, None, f"{folder / TRAINER_STATE}: cannot be read: {error!r}")
    return Audit(folder, len(files), size, step, "")
