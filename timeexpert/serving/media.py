"""Decoding in a process of its own: a crash or a hang costs one request. No message says where a file lies."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from timeexpert.data.pool import Failed, WorkerPool, memory_is_used_up
from timeexpert.data.sampling import SamplingError, sample_frames
from timeexpert.data.video import Video, VideoError

from .limits import RequestError, ServingLimits
from .opened import Identity, open_without_links

NAME = "video_url"


@dataclass(frozen=True)
class DecodedVideo:
    """Sampled frames uint8 [n, size, size, 3], their times (seconds), and what is missing of a damaged file."""

    frames: np.ndarray
    times_s: np.ndarray
    duration_s: float
    damage: str | None


def decode(
    path: Path, identity: Identity | None, num_frames: int, size: int, limits: ServingLimits
) -> DecodedVideo | str:
    """Evenly spaced frames of one video, or why it is refused. Runs in a worker process. Raises ``MemoryError``."""
    outcome = _decoded(path, identity, num_frames, size, limits)
    if (isinstance(outcome, str) or outcome.damage) and memory_is_used_up():
        raise MemoryError
    return outcome


def _decoded(
    path: Path, identity: Identity | None, num_frames: int, size: int, limits: ServingLimits
) -> DecodedVideo | str:
    try:
        source = path if identity is None else open_without_links(path)
        with Video.open(source, name=NAME, limits=limits.video) as video:
            duration_s = video.info.duration_s
            frames, times_s = sample_frames(video, num_frames, size=(size, size))
            if not isinstance(source, Path) and Identity.of(source) != identity:
                return f"{NAME}: the file was changed meanwhile. Ask again."
            return DecodedVideo(frames, times_s, duration_s, video.info.damage)
    except (VideoError, SamplingError) as error:
        return str(error)
    except OSError:  # its text holds the path
        return f"{NAME}: cannot be read."


class Decoder:
    """One process that decodes: a crash or a hang in it costs one request. Thread-safe; leaving it ends it."""

    def __init__(self, size: int, limits: ServingLimits) -> None:
        self.size, self.limits = size, limits
        self._pool: WorkerPool[DecodedVideo | str] = WorkerPool(
            decode, 1, limits.decode_timeout_s, limits.decode_memory_bytes
        )
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    def __call__(self, path: Path, num_frames: int, identity: Identity | None = None) -> DecodedVideo:
        """Frames of the file. ``identity``: see :class:`timeexpert.serving.ticket.Video`.

        Raises :class:`RequestError` where the video is refused, crashes the decoder, or takes too much memory or time.
        """
        with self._lock:
            (result,) = self._pool.map([(path, identity, num_frames, self.size, self.limits)])
        if isinstance(result, str):
            raise RequestError(result)
        if isinstance(result, Failed):
            if result.reason.startswith("unexpected"):
                raise RuntimeError(f"decoding: {result.reason}")  # ours to mend: logged, not shown
            raise RequestError(f"{NAME}: decoding {result.reason}. Send a shorter, smaller or re-encoded video.")
        return result
