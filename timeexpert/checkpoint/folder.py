"""Folders that are there whole or not at all, with a manifest of checksums.

A folder is written under a temporary name and renamed when it is whole, so a kill at any moment leaves either the old
state or the new one. ``manifest.json`` holds size and sha256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from timeexpert.errors import UserError

MANIFEST = "manifest.json"


class CheckpointError(UserError):
    """A checkpoint that cannot be written or read; the message names the file and the way out."""


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make ``folder`` atomically: ``fill`` writes into a temporary one, which gets a manifest and is renamed.

    Raises :class:`CheckpointError` when the disk is full or refuses; what was there before stays as it was.
    """
    try:
        temporary = begin(folder)
        fill(temporary)
        commit(folder, checked(temporary, (p for p in temporary.rglob("*") if p.is_file())))
    except (OSError, SafetensorError) as error:
        abandon(folder)
        raise cannot_be_saved(folder, error) from None


def begin(folder: Path) -> Path:
    """The empty folder to fill in place of ``folder``."""
    temporary = filling(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def filling(folder: Path) -> Path:
    """The folder that stands in for ``folder`` until it is whole."""
    return folder.with_name(f".{folder.name}.part")


def checked(root: Path, files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Rows of the manifest for ``files`` below ``root``, which are on the disk when this returns."""
    rows = {}
    mode = root.stat().st_mode & 0o666  # what the umask allows: safetensors makes files that only their owner can read
    for path in sorted(files):
        path.chmod(mode)
        rows[str(path.relative_to(root))] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        _sync(path)
    return rows


def commit(folder: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Write the manifest into the folder that was filled, and give it its name."""
    temporary = filling(folder)
    manifest = temporary / MANIFEST
    manifest.write_text(json.dumps({"files": rows}, indent=1), encoding="utf-8")
    _sync(manifest)
    _replace(temporary, folder)


def abandon(folder: Path) -> None:
    """Remove what was filled in place of ``folder``."""
    shutil.rmtree(filling(folder), ignore_errors=True)


def cannot_be_saved(folder: Path, reason: object) -> CheckpointError:
    """The error about a folder that the disk did not take."""
    return CheckpointError(
        f"{folder}: cannot be saved: {reason}. Earlier checkpoints are untouched; free some space (or allow larger "
        "files) and run the same command again to continue from the last one."
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(temporary: Path, folder: Path) -> None:
    """Rename over ``folder``; a folder cannot be replaced in one step, so the old one steps aside first."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)
    _sync(folder.parent)


def recover(parent: Path) -> None:
    """Undo a kill between the two renames of :func:`write_folder`, and remove half-written folders."""
    for old in parent.glob(".*.old"):
        folder = parent / old.name[1 : -len(".old")]
        if folder.exists():
            shutil.rmtree(old)
        else:
            os.rename(old, folder)
    for part in parent.glob(".*.part"):
        shutil.rmtree(part)


def verify(folder: Path) -> None:
    """Check every file against the manifest. Raises :class:`CheckpointError` that names the first that differs."""
    manifest = folder / MANIFEST
    try:
        table = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        files = {str(name): (int(row["bytes"]), str(row["sha256"])) for name, row in table.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{manifest}: missing; {folder} is not a finished checkpoint.") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{manifest}: not a manifest ({error!r}). Use another checkpoint.") from None
    for name in files:
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise CheckpointError(f"{manifest}: {name!r} leaves the folder.")

    def problem(name: str) -> str | None:
        path, (size, digest) = folder / name, files[name]
        if not path.is_file():
            return f"{path}: missing, though the manifest lists it. Use another checkpoint."
        if path.stat().st_size != size or sha256(path) != digest:
            return f"{path}: its bytes differ from the manifest (damaged). Use another checkpoint."
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing lets other threads run
        found = next(filter(None, pool.map(problem, files)), None)
    if found is not None:
        raise CheckpointError(found)
