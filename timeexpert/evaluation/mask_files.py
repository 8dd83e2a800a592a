"""Folders of label maps as DAVIS and MeVIS have them: ``FOLDER/SEQUENCE/FRAME.png``, one palette image per frame.

What an image holds says :mod:`timeexpert.data.label_maps`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from timeexpert.data import label_maps
from timeexpert.data.mask_rle import MaskError

from .errors import EvaluationError

M = TypeVar("M", covariant=True)


class _Sequences(Mapping[str, M]):
    """A mapping of which the names are known from the start, and each value is read when asked for."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder = folder
        self._names = dict.fromkeys(names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class MaskFolder(_Sequences[NDArray[Any]]):
    """Sequence name -> label maps, uint8 [T, H, W], read when asked for, frames in order of their names.

    Raises :class:`EvaluationError` where the folder holds no sequence, and on reading, where an image is none or of
    another size than the first one, naming the file.
    """

    def __init__(self, folder: Path) -> None:
        found = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        super().__init__(folder, (path.name for path in found if any(path.glob("*.png"))))
        if not self._names:
            raise EvaluationError(f"{folder}: no folder with .png files in it. Give the folder of all sequences.")

    def frames(self, name: str) -> list[Path]:
        """The files of a sequence."""
        if name not in self._names:
            raise KeyError(name)
        return sorted((self.folder / name).glob("*.png"))

    def __getitem__(self, name: str) -> NDArray[Any]:
        maps: list[NDArray[Any]] = []
        for path in self.frames(name):
            maps.append(read_labels(path))
            if maps[-1].shape != maps[0].shape:
                raise EvaluationError(f"{path}: {maps[-1].shape} pixels where the first frame has {maps[0].shape}.")
        return np.stack(maps)


class PredictedMasks(_Sequences["NDArray[Any] | None"]):
    """Predictions in a folder, on the frames of ``truth``: a frame without a file is empty, and counted in
    ``missing_frames``; a sequence with an image that cannot be read or has another size is ``None``."""

    def __init__(self, folder: Path, truth: MaskFolder) -> None:
        super().__init__(folder, (name for name in truth if (folder / name).is_dir()))
        self.truth, self.missing_frames = truth, 0
        if not self._names:
            raise EvaluationError(f"{folder}: no folder has the name of a true sequence, such as {next(iter(truth))}.")

    def __getitem__(self, name: str) -> NDArray[Any] | None:
        if name not in self._names:
            raise KeyError(name)
        true = self.truth.frames(name)
        maps = np.zeros((len(true), *read_labels(true[0]).shape), dtype=np.uint8)
        for frame, path in zip(maps, true, strict=True):
            file = self.folder / name / path.name
            if not file.is_file():
                self.missing_frames += 1
                continue
            try:
                labels = read_labels(file)
            except EvaluationError:
                return None
            if labels.shape != frame.shape:
                return None
            frame[:] = labels
        return maps


def read_labels(path: Path) -> NDArray[Any]:
    """:func:`timeexpert.data.label_maps.read_labels`, as an :class:`EvaluationError` where the file is none."""
    try:
        return label_maps.read_labels(path)
    except MaskError as error:
        raise EvaluationError(str(error)) from None
