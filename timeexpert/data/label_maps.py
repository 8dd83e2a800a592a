"""Label maps as DAVIS and YouTube-VOS have them: ``FOLDER/SEQUENCE/FRAME.png``, one palette image per frame.

A palette image holds its indices (0 background, k object k, 255 void); a grey image holds them as grey values, except
that one of 0 and 255 alone is a mask of object 1. Pillow is imported when a file is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .mask_rle import MaskError


def read_labels(path: Path) -> NDArray[Any]:
    """One label map, uint8 [H, W]. Raises :class:`MaskError` where the file is no palette or grey image."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise MaskError(
                    f"{path}: an image of mode {image.mode} is no label map. Save it with a palette (mode P)."
                )
            labels = np.array(image.convert("L") if image.mode == "1" else image, dtype=np.uint8)
            grey = image.mode != "P"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MaskError(f"{path}: cannot be read as an image: {error}.") from None
    if grey and np.isin(labels, (0, 255)).all():
        labels = (labels == 255).astype(np.uint8)
    return labels


@dataclass
class LabelMaps:
    """The label maps of a folder of sequences; those of the sequence read last are kept."""

    folder: Path
    _last: tuple[str, NDArray[np.uint8]] = field(default=("", np.zeros((0, 0, 0), np.uint8)))

    def masks(self, sequence: str, frames: Sequence[str], label: int) -> NDArray[np.bool_]:
        """Where ``label`` is in each of ``frames`` (file names without ending), bool [T, H, W].

        Raises :class:`MaskError` where a file is missing, is no label map, or has another size than the first.
        """
        if self._last[0] != sequence or len(self._last[1]) != len(frames):
            self._last = (sequence, self._read(sequence, frames))
        return self._last[1] == label

    def _read(self, sequence: str, frames: Sequence[str]) -> NDArray[np.uint8]:
        maps: list[NDArray[Any]] = []
        for name in frames:
            path = self.folder / sequence / f"{name}.png"
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise MaskError(f"{path}: leads out of {self.folder}. Correct the name of the video or of the frame.")
            if not path.is_file():
                raise MaskError(f"{path}: no such file; there must be a label map for every frame of a video.")
            maps.append(read_labels(path))
            if maps[-1].shape != maps[0].shape:
                raise MaskError(f"{path}: {list(maps[-1].shape)} pixels where the first has {list(maps[0].shape)}.")
        return np.stack(maps)
