"""Features of a frozen vision tower, made ahead of training: the tower of a model folder, run over clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from timeexpert import __version__
from timeexpert.checkpoint import MANIFEST, MODEL, CheckpointError, verify
from timeexpert.checkpoint.pieces import Pieces
from timeexpert.data.cache import CacheError, CacheReport, cache_clips, check_fps, frames_per_second, in_parts
from timeexpert.data.features import FeatureFile, write_features
from timeexpert.data.media import FEATURES_SUFFIX
from timeexpert.data.sampling import uniform_times
from timeexpert.data.video import Video
from timeexpert.data.video_index import on_screen
from timeexpert.families import FamilyError, family_in
from timeexpert.model.tower import Tower
from timeexpert.predict import pick_device, resolve_model

Dtype = Literal["float16", "bfloat16", "float32"]


def load_tower(folder: Path) -> Tower:
    """The vision tower of a model folder alone, in float32 on the CPU.

    Raises :class:`FamilyError` for a family without one whose features can be kept, and :class:`CheckpointError`.
    """
    own = family_in(folder)
    prefix = own.tower_prefix
    if prefix is None:
        raise FamilyError(
            f"{folder}: models of the family {own.config_class.model_type} take frames only; features cannot be kept. "
            "Leave --features out to keep frames as JPEG."
        )
    try:
        tower = own.tower(own.config_class.from_pretrained(folder, local_files_only=True))
        assert tower is not None
        stored = Pieces(folder, MODEL)
        weights = {n.removeprefix(prefix): stored.read(n).float() for n in stored.names if n.startswith(prefix)}
        tower.module.load_state_dict(weights)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise CheckpointError(
            f"{folder}: its vision tower cannot be read: {reason} Use another model folder."
        ) from None
    tower.module.requires_grad_(False).eval()
    return tower


@lru_cache(maxsize=1)
def _tower_on(folder: Path, device: str, threads: int) -> Tower:
    """One tower per worker process."""
    torch.set_num_threads(threads)
    tower = load_tower(folder)
    tower.module.to(device)
    return tower


@dataclass(frozen=True)
class FeatureClips:
    """Clips as features of the tower in ``folder``, whose identity is ``tower``; the form :func:`.cache_clips` takes.

    ``fps``: of the frames on screen at 0, 1 / fps, ... seconds, which the clip is then made of; or ``num_frames``: of
    those that uniform sampling of each of these numbers takes. ``dtype``: as which they are computed and kept; other
    than float32 under autocast, as in training.
    """

    folder: Path
    tower: dict[str, Any]
    dtype: Dtype
    fps: float | None
    num_frames: tuple[int, ...]
    device: str
    threads: int

    def __post_init__(self) -> None:
        if (self.fps is None) == (not self.num_frames):
            raise CacheError("--fps or --num-frames says which frames' features are kept. Give one of them.")
        if self.fps is not None:
            check_fps(self.fps)
        if any(count < 1 for count in self.num_frames):
            raise CacheError(f"--num-frames ({' '.join(map(str, self.num_frames))}) must be 1 or more each.")

    @property
    def kind(self) -> dict[str, Any]:
        """What is the same for all clips, less the shape."""
        kept = {"fps": float(self.fps)} if self.fps is not None else {"num_frames": sorted(set(self.num_frames))}
        return {"tower": self.tower, "kept": kept, "dtype": self.dtype}

    @property
    def settings(self) -> dict[str, Any]:
        """As :class:`~timeexpert.data.cache.Kind`."""
        tower = {f"tower {name}": value for name, value in self.tower.items()}  # a change is told by its name
        return {"kept": self.kind["kept"], "dtype": self.dtype, **tower}

    def name(self, video: str) -> str:
        """The video's name with ``.features`` behind it."""
        return video + FEATURES_SUFFIX

    def check(self, path: Path) -> None:
        """As :class:`~timeexpert.data.cache.Kind`."""
        FeatureFile(path)

    def write(self, source: Path, video: str, out: Path) -> None:
        """As :class:`~timeexpert.data.cache.Kind`."""
        size = self.tower["image_size"]
        made_with = {name: version(name) for name in ("torch", "transformers", "av")}
        with Video.open(source, name=video) as opened:
            shown_s, frames = self._choose(opened.frame_times_s, opened.info.duration_s)
            parts = (opened.frames_at(part, (size, size)) for part in in_parts(shown_s[frames]))
            features = ((self._encode(pixels), times_s) for pixels, times_s in parts)
            made_with |= {"timeexpert": __version__, "device": self.device}
            write_features(out, self.kind, opened.info.duration_s, shown_s, frames, features, made_with)

    def _choose(self, frame_times_s: np.ndarray, duration_s: float) -> tuple[np.ndarray, np.ndarray]:
        """Times of the frames that the clip has, and which of them are kept."""
        if self.fps is not None:
            thinned = frame_times_s[frames_per_second(frame_times_s, duration_s, self.fps)]
            return thinned, np.arange(len(thinned))
        asked_s = np.concatenate([uniform_times(duration_s, count) for count in self.num_frames])
        return frame_times_s, np.unique(on_screen(frame_times_s, asked_s))

    @torch.inference_mode()
    def _encode(self, pixels: np.ndarray) -> torch.Tensor:
        """uint8 [n, H, W, 3] -> features [n, P, C]."""
        tower = _tower_on(self.folder, self.device, self.threads)
        values = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(self.device)
        dtype = getattr(torch, self.dtype)
        with torch.autocast(torch.device(self.device).type, dtype, enabled=dtype != torch.float32):
            return tower.features(values)


def cache_features(
    model: str | Path,
    samples: str | Path,
    media: str | Path,
    out: str | Path,
    *,
    dtype: Dtype = "bfloat16",
    fps: float | None = None,
    num_frames: Sequence[int] = (),
    device: str = "auto",
    workers: int = 1,
    timeout_s: float = 600,
    progress: Callable[[int, int, str], None] | None = None,
) -> CacheReport:
    """:func:`.cache_clips` as features of the vision tower of ``model``, a run or a model folder.

    Each of ``workers`` processes holds the tower. Raises ``UserError`` where the model or the output cannot be used.
    """
    place, folder = pick_device(device), resolve_model(model)
    if (folder / MANIFEST).is_file():
        verify(folder)
    threads = max(1, torch.get_num_threads() // max(1, workers))
    tower = load_tower(folder).identity()
    kind = FeatureClips(folder, tower, dtype, fps, tuple(num_frames), str(place), threads)
    return cache_clips(samples, media, out, kind, workers=workers, timeout_s=timeout_s, progress=progress)
