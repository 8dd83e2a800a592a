"""What a checkpoint of training holds, and how it gets back into a model of any layout.

``model*.safetensors`` (weights and buffers; with ``config.json`` and the tokenizer a model of its own where one process
wrote it), ``trainer*.safetensors`` (optimizer moments, statistics, random states: :mod:`.pieces`) and ``trainer.json``
(step, data state).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from timeexpert.moe.rows import block, joined, whole

from .folder import CheckpointError
from .pieces import Pieces

MODEL, TRAINER = "model", "trainer"  # stems of the files
TRAINER_STATE = "trainer.json"
OPTIMIZER = "optimizer."  # what names of optimizer state begin with


def whole_model(weights: Mapping[str, Tensor], *, keep: bool = True) -> dict[str, Tensor] | None:
    """A sharded model's weights and buffers, whole, on the CPU; ``None`` on a rank that does not ``keep`` them."""
    out = {}
    for name, value in weights.items():
        gathered = whole(value)  # by all ranks, one tensor at a time
        if keep:
            out[name] = gathered.detach().cpu()
    return out if keep else None


def optimizer_tensors(
    model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], *, keep: bool = True
) -> dict[str, Tensor]:
    """Optimizer state by parameter name, as it is laid out: ``optimizer.NAME.exp_avg`` and so on.

    All ranks read it together; the result is empty on one that does not ``keep`` it.
    """
    names = {id(p): n for n, p in model.named_parameters()}
    read = (
        (f"{OPTIMIZER}{names[id(parameter)]}.{key}", torch.as_tensor(value))
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    )
    return {name: value for name, value in read if keep}


def load_weights(
    model: torch.nn.Module, folder: Path, editing: Callable[[list[Tensor]], AbstractContextManager[None]] | None = None
) -> None:
    """Put the weights and buffers of ``folder`` into a model of any layout; each rank reads what it holds of them.

    ``editing``: see ``OneProcess.whole``. Raises :class:`CheckpointError` where the names differ.
    """
    state, stored = model.state_dict(keep_vars=True), Pieces(folder, MODEL)
    differing = sorted(stored.names ^ state.keys())
    if differing:
        raise CheckpointError(
            f"{folder}: its weights are those of another model: {', '.join(differing[:3])} "
            f"{'is' if len(differing) == 1 else 'are'} in one of them only. Use another checkpoint."
        )
    for name, value in state.items():
        with torch.no_grad(), nullcontext() if editing is None else editing([value]):
            local, where = block(value)
            if stored.shape(name) != tuple(value.shape):
                raise CheckpointError(
                    f"{folder}: {name} has shape {stored.shape(name)}, this model's {tuple(value.shape)}. Use another "
                    "checkpoint, or the config that it was made with."
                )
            local.copy_(stored.read(name, where))


def load_optimizers(model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], stored: Pieces) -> None:
    """Put back what :func:`optimizer_tensors` gave, in the layout of each parameter.

    Raises :class:`CheckpointError` for another model's state.
    """
    parameters = dict(model.named_parameters())
    owner = {id(p): o for o in optimizers for group in o.param_groups for p in group["params"]}
    for key in sorted(stored.names):
        if not key.startswith(OPTIMIZER):
            continue
        name, field = key.removeprefix(OPTIMIZER).rsplit(".", 1)
        if name not in parameters or id(parameters[name]) not in owner:
            raise CheckpointError(
                f"{stored.folder}: the optimizer state names {name!r}, which this stage does not train. "
                "Use another checkpoint."
            )
        parameter = parameters[name]
        if stored.shape(key) == tuple(parameter.shape) and field != "step":
            value = joined(stored.read(key, block(parameter)[1]).to(parameter.device), parameter)
        else:
            value = stored.read(key)
        owner[id(parameter)].state[parameter][field] = value


def load_trainer(folder: Path) -> tuple[Pieces, dict[str, Any]]:
    """The trainer's tensors and ``trainer.json``. Raises :class:`CheckpointError`."""
    path = folder / TRAINER_STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}. Use another checkpoint.") from None
    return Pieces(folder, TRAINER), state
