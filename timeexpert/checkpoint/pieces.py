"""Tensors in safetensors files, whole or in blocks of many ranks, read back into any other layout.

A file ``STEM.safetensors`` holds whole tensors, as everyone's. ``STEM-00002.safetensors`` is what rank 2 held: its
header's ``blocks`` gives, for each tensor that was cut, the shape of the whole and where the block lies in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from timeexpert.moe.rows import block, is_copy

from .folder import CheckpointError

BLOCKS = "blocks"  # the key in a file's header
Where = tuple[slice, ...]


@dataclass(frozen=True)
class Block:
    """A part of a tensor: ``values``, and where it lies in the whole of ``shape``."""

    values: Tensor
    shape: tuple[int, ...]
    offset: tuple[int, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return tuple(self.values.shape) == self.shape


class Staging:
    """Copies of what a rank writes, in memory of its own, so that training may change the originals meanwhile."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def blocks(self, tensors: Mapping[str, Tensor], *, main: bool) -> dict[str, Block]:
        """This rank's part of each tensor: its block of a sharded one unless another rank holds the same, and with
        ``main`` those that every rank has whole. The copies are overwritten by the next call."""
        out = {}
        for name, tensor in tensors.items():
            if (own := _own_block(tensor, main)) is not None:
                local, where = own
                copied = self._room(name, local).copy_(local.detach())
                out[name] = Block(copied, tuple(tensor.shape), tuple(part.start for part in where))
        return out

    def reserve(self, tensors: Mapping[str, Tensor], *, main: bool) -> None:
        """Touch the memory that :meth:`blocks` of such tensors will fill: the first use of a page takes longer than a
        copy into it."""
        for name, tensor in tensors.items():
            if (own := _own_block(tensor, main)) is not None:
                self._room(name, own[0]).zero_()

    def _room(self, name: str, values: Tensor) -> Tensor:
        kept = self._buffers.get(name)
        if kept is None or kept.shape != values.shape or kept.dtype != values.dtype:
            kept = self._buffers[name] = torch.empty(values.shape, dtype=values.dtype)
        return kept


def _own_block(tensor: Tensor, main: bool) -> tuple[Tensor, Where] | None:
    """What a rank writes of a tensor, and where it lies in the whole; ``None``: nothing."""
    if is_copy(tensor) if isinstance(tensor, DTensor) else not main:
        return None
    local, where = block(tensor)
    return (local, where) if local.numel() or not isinstance(tensor, DTensor) else None


def file_name(stem: str, rank: int, ranks: int) -> str:
    """What a rank of ``ranks`` calls its file."""
    return f"{stem}.safetensors" if ranks == 1 else f"{stem}-{rank:05d}.safetensors"


def write_blocks(path: Path, blocks: Mapping[str, Block]) -> None:
    """One rank's file. Raises OSError or SafetensorError where the disk refuses."""
    cut = {name: {"shape": b.shape, "offset": b.offset} for name, b in blocks.items() if not b.is_whole}
    header = {"format": "pt"} | ({BLOCKS: json.dumps(cut)} if cut else {})
    save_file({name: b.values for name, b in blocks.items()}, path, metadata=header)


@dataclass(frozen=True)
class _Piece:
    file: Path
    shape: tuple[int, ...]
    offset: tuple[int, ...]

    def overlap(self, where: Where) -> tuple[Where, Where] | None:
        """What ``where`` wants of this piece, as slices of the piece and of ``where``."""
        source, target = [], []
        for part, offset, size in zip(where, self.offset, self.shape, strict=True):
            begin, end = max(part.start, offset), min(part.stop, offset + size)
            if begin >= end:
                return None
            source.append(slice(begin - offset, end - offset))
            target.append(slice(begin - part.start, end - part.start))
        return tuple(source), tuple(target)


class Pieces:
    """The tensors of ``FOLDER/STEM*.safetensors`` by name, whoever wrote them.

    Raises :class:`CheckpointError` for a file that cannot be read, and where a part of a tensor is in none.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self.folder, self.stem = folder, stem
        self._pieces: dict[str, list[_Piece]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._open: dict[Path, safe_open] = {}
        files = sorted([*folder.glob(f"{stem}.safetensors"), *folder.glob(f"{stem}-*.safetensors")])
        if not files:
            raise CheckpointError(f"{folder}: there is no {stem}.safetensors in it. Use another checkpoint.")
        for path in files:
            try:
                self._index(path)
            except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise _unreadable(path, error) from None

    def _index(self, path: Path) -> None:
        file = self._open[path] = safe_open(path, framework="pt")
        cut = json.loads((file.metadata() or {}).get(BLOCKS, "{}"))
        for name in file.keys():  # noqa: SIM118 (a handle, no mapping)
            size = tuple(file.get_slice(name).get_shape())
            shape, offset = size, (0,) * len(size)
            if name in cut:
                shape, offset = (tuple(map(int, cut[name][key])) for key in ("shape", "offset"))
            fits = len(shape) == len(offset) == len(size)
            if not fits or any(not 0 <= o <= o + n <= s for o, n, s in zip(offset, size, shape, strict=True)):
                raise ValueError(f"the block of {name!r} lies outside of its tensor")
            if self._shapes.setdefault(name, shape) != shape:
                raise ValueError(f"{name!r} has another shape than in the other files")
            self._pieces.setdefault(name, []).append(_Piece(path, size, offset))

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._pieces)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole tensor."""
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """As safetensors calls it: F32, BF16."""
        return str(self._open[self._pieces[name][0].file].get_slice(name).get_dtype())

    def read(self, name: str, where: Where | None = None) -> Tensor:
        """The part ``where`` (a slice per dimension; None: all) of a tensor, on the CPU, in memory of its own."""
        shape = self._shapes[name]
        where = tuple(slice(0, size) for size in shape) if where is None else where
        out: Tensor | None = None
        found = 0
        for piece in self._pieces[name]:
            overlap = piece.overlap(where)
            if overlap is None:
                continue
            source, target = overlap
            file = self._open[piece.file]
            try:
                values = file.get_slice(name)[source] if source else file.get_tensor(name)
            except (OSError, SafetensorError) as error:
                raise _unreadable(piece.file, error) from None
            if out is None:
                out = torch.empty([part.stop - part.start for part in where], dtype=values.dtype)
            out[target] = values
            found += values.numel()
        if found != math.prod(part.stop - part.start for part in where):
            raise CheckpointError(
                f"{self.folder}: a part of {name!r} is in none of its {self.stem} files. Use another checkpoint."
            )
        return torch.empty([part.stop - part.start for part in where]) if out is None else out


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be read: {error}. Use another checkpoint.")
