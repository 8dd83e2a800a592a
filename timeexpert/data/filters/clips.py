"""What the filters know of each clip, from decoding it once; kept in the output folder for the next run."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from timeexpert.data.media import resolve_media
from timeexpert.data.pool import Failed, WorkerPool
from timeexpert.data.shard_index import write_atomically
from timeexpert.errors import UserError

from .motion import HEIGHT, WIDTH, MotionMeter

VERSION = 1  # of the measurements: raise it when they change, so that kept ones are made anew
CUT_STEP_TOLERANCE = 0.9  # of a step: 29.97 frames per second are taken for twice 15


@dataclass(frozen=True)
class Clip:
    """One decoded clip.

    ``times_s`` float64 [steps] is when each analysed step ends (its later frame begins); ``change`` and ``novelty``
    float32 [steps] are :class:`MotionMeter`'s. ``duration_s`` is that of what can be read.
    """

    video: str
    duration_s: float
    num_frames: int
    damage: str
    times_s: np.ndarray
    change: np.ndarray
    novelty: np.ndarray

    @property
    def step_s(self) -> float:
        """Median distance between analysed frames."""
        return float(np.median(np.diff(self.times_s))) if len(self.times_s) > 1 else self.duration_s


@dataclass(frozen=True)
class Pictures:
    """Frames for an image encoder: uint8 [n, size, size, 3] RGB and their times in seconds [n]."""

    frames: np.ndarray
    times_s: np.ndarray


@dataclass(frozen=True)
class PictureRequest:
    """Frames wanted beside the measurements: ``per_s`` a second, at most ``most``, ``size`` pixels square."""

    size: int
    per_s: float
    most: int


def measure(
    media: Path, video: str, analysis_fps: float, wanted: PictureRequest | None
) -> tuple[Clip, Pictures | None]:
    """Decode a clip once. Raises :class:`UserError` with its name and the reason."""
    from timeexpert.data.sampling import uniform_times
    from timeexpert.data.video import Video
    from timeexpert.data.video_index import on_screen

    meter, frames, times = MotionMeter(), [], []
    with Video.open(resolve_media(media, video), name=video) as opened:
        duration_s = opened.info.duration_s
        picked: set[float] = set()
        if wanted is not None:
            count = min(wanted.most, max(1, math.ceil(duration_s * wanted.per_s)))
            shown = on_screen(opened.frame_times_s, uniform_times(duration_s, count))
            picked = set(opened.frame_times_s[np.unique(shown)].tolist())
        latest = -math.inf
        for time_s, picture in opened.each_frame():
            time_s = float(time_s)
            if wanted is not None and time_s in picked:
                frames.append(picture(wanted.size, wanted.size))
                times.append(time_s)
            if time_s - latest >= CUT_STEP_TOLERANCE / analysis_fps:
                meter.add(time_s, picture(HEIGHT, WIDTH))
                latest = time_s
        info = opened.info
    clip = Clip(
        video,
        info.duration_s,
        info.num_frames,
        info.damage or "",
        np.array(meter.times_s),
        np.array(meter.change, np.float32),
        meter.novelty,
    )
    pictures = Pictures(np.stack(frames), np.array(times)) if wanted is not None and frames else None
    return clip, pictures


class ClipStore:
    """Measurements in ``folder``, one small file per clip, keyed by path, size, modification time and settings.

    ``embed`` turns the pictures of a clip into what is kept of them (float32 [n, D]); ``embedded_by`` names it.
    """

    def __init__(
        self,
        folder: Path,
        media: Path,
        analysis_fps: float,
        *,
        wanted: PictureRequest | None = None,
        embed: Callable[[np.ndarray], np.ndarray] | None = None,
        embedded_by: str = "",
    ) -> None:
        self.folder, self.media, self.analysis_fps = folder, media, analysis_fps
        self.wanted, self.embed, self.embedded_by = wanted, embed, embedded_by
        self.failed: dict[str, str] = {}
        self.clip = lru_cache(maxsize=64)(self._clip)
        self.embedding = lru_cache(maxsize=64)(self._embedding)

    def fill(
        self,
        videos: Iterable[str],
        *,
        workers: int,
        timeout_s: float,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> int:
        """Measure what is not kept yet; returns how many clips were decoded. Failures are in ``failed``."""
        videos = list(videos)
        todo: list[str] = []
        for video in videos:
            try:
                if not all(path.is_file() for path in self._files(video)):
                    todo.append(video)
            except UserError as error:
                self.failed[video] = str(error)
        done = len(videos) - len(todo)
        with WorkerPool(measure, workers, timeout_s) as pool:
            tasks = ((self.media, video, self.analysis_fps, self.wanted) for video in todo)
            for video, found in zip(todo, pool.map(tasks), strict=True):
                if isinstance(found, Failed):
                    self.failed[video] = found.about(video)
                else:
                    self._keep(video, *found)
                done += 1
                if progress is not None:
                    progress(done, len(videos), video)
        return len(todo)

    def _keep(self, video: str, clip: Clip, pictures: Pictures | None) -> None:
        files = self._files(video)
        if pictures is not None and self.embed is not None:  # first: the measurements then say that all is there
            _write(files[1], vectors=self.embed(pictures.frames), times_s=pictures.times_s)
        about = json.dumps([clip.video, clip.duration_s, clip.num_frames, clip.damage])
        _write(files[0], about=np.array(about), times_s=clip.times_s, change=clip.change, novelty=clip.novelty)

    def _clip(self, video: str) -> Clip | None:
        if video in self.failed:
            return None
        kept = _read(self._files(video)[0])
        name, duration_s, num_frames, damage = json.loads(str(kept["about"]))
        return Clip(name, duration_s, num_frames, damage, kept["times_s"], kept["change"], kept["novelty"])

    def _embedding(self, video: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Vectors float32 [n, D] and times [n], or ``None`` for a clip that does not decode."""
        if video in self.failed:
            return None
        kept = _read(self._files(video)[1])
        return kept["vectors"], kept["times_s"]

    def _files(self, video: str) -> list[Path]:
        status = resolve_media(self.media, video).stat()
        key = [VERSION, video, status.st_size, status.st_mtime_ns, self.analysis_fps]
        files = [self._path(key, "motion")]
        if self.wanted is not None:
            about = [self.wanted.size, self.wanted.per_s, self.wanted.most, self.embedded_by]
            files.append(self._path(key + about, "vectors"))
        return files

    def _path(self, key: list[object], kind: str) -> Path:
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.{kind}.npz"


def _write(path: Path, **arrays: np.ndarray) -> None:
    out = BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, out.getvalue())


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as kept:
            return dict(kept)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: a kept measurement is not readable ({error}). Delete the file and run again."
        ) from None
