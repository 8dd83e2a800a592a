"""Checkpoints: atomic folders of safetensors and JSON with a manifest of checksums. No pickle anywhere.

``NAME/model.safetensors`` and ``config.json`` (transformers), the tokenizer, ``trainer.safetensors`` (optimizer
moments and random states), ``trainer.json`` (step, data state) and ``manifest.json`` (size and sha256 of every
file). A folder is written under a temporary name and renamed when it is whole, so a kill at any moment leaves
either the old state or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from timeexpert.errors import UserError
from timeexpert.moe.rows import block, place, whole

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
    temporary = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        fill(temporary)
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        rows = {str(p.relative_to(temporary)): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files}
        (temporary / MANIFEST).write_text(json.dumps({"files": rows}, indent=1), encoding="utf-8")
        for path in [*files, temporary / MANIFEST]:
            _sync(path)
        _replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{folder}: cannot be saved: {error}. Earlier checkpoints are untouched; free some space (or allow larger "
            "files) and run the same command again to continue from the last one."
        ) from None


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
    for name, (size, digest) in files.items():
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise CheckpointError(f"{manifest}: {name!r} leaves the folder.")
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, though the manifest lists it. Use another checkpoint.")
        if path.stat().st_size != size or sha256(path) != digest:
            raise CheckpointError(f"{path}: its bytes differ from the manifest (damaged). Use another checkpoint.")


def model_tensors(model: torch.nn.Module, *, keep: bool = True) -> dict[str, Tensor] | None:
    """A sharded model's weights and buffers, whole, on the CPU; ``None`` on a rank that does not ``keep`` them."""
    out = {}
    for name, value in model.state_dict().items():
        gathered = whole(value)  # by all ranks, one tensor at a time
        if keep:
            out[name] = gathered.detach().cpu()
    return out if keep else None


def optimizer_tensors(
    model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], *, keep: bool = True
) -> dict[str, Tensor]:
    """Optimizer state by parameter name: ``optimizer.NAME.exp_avg`` and so on.

    Sharded state is gathered, which all ranks do together; those that do not ``keep`` it get nothing.
    """
    names = {id(p): n for n, p in model.named_parameters()}
    out = {}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                gathered = whole(torch.as_tensor(value))
                if keep:
                    out[f"optimizer.{names[id(parameter)]}.{key}"] = gathered.detach().cpu().contiguous()
    return out


def load_model_tensors(model: torch.nn.Module, folder: Path) -> None:
    """Put the weights and buffers of ``folder`` into a model of any layout; each rank reads what it holds of them.

    Raises :class:`CheckpointError` where the names differ.
    """
    state = model.state_dict()
    files = sorted(folder.glob("model*.safetensors"))
    found: set[str] = set()
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (a handle, no mapping)
                found.add(name)
                if name in state:
                    local, where = block(state[name])
                    stored = file.get_slice(name)
                    with torch.no_grad():
                        local.copy_(stored[where] if where else file.get_tensor(name))
    differing = sorted(found ^ state.keys())
    if differing:
        raise CheckpointError(
            f"{folder}: its weights are those of another model: {', '.join(differing[:3])} "
            f"{'is' if len(differing) == 1 else 'are'} in one of them only. Use another checkpoint."
        )


def load_optimizers(
    model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]
) -> None:
    """Put back what :func:`optimizer_tensors` gave, in the layout of each parameter.

    Raises :class:`CheckpointError` for another model's state.
    """
    parameters = dict(model.named_parameters())
    owner = {id(p): o for o in optimizers for group in o.param_groups for p in group["params"]}
    for key, value in tensors.items():
        if not key.startswith("optimizer."):
            continue
        name, field = key.removeprefix("optimizer.").rsplit(".", 1)
        if name not in parameters or id(parameters[name]) not in owner:
            raise CheckpointError(f"the optimizer state names {name!r}, which this stage does not train.")
        parameter = parameters[name]
        owner[id(parameter)].state[parameter][field] = value.clone() if field == "step" else place(value, parameter)


def save_trainer(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """``trainer.safetensors`` and ``trainer.json``."""
    save_file(tensors, folder / "trainer.safetensors")
    (folder / "trainer.json").write_text(json.dumps(state, indent=1), encoding="utf-8")


def load_trainer(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`save_trainer` wrote. Raises :class:`CheckpointError`."""
    try:
        state = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
        return load_file(folder / "trainer.safetensors"), state
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder}: the trainer state cannot be read: {error}. Use another checkpoint.") from None
