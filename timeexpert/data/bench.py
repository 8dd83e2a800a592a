"""How fast a shard folder can be read as training reads it, where the time goes, and whether a GPU would wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from timeexpert.errors import UserError

from .batch import join_frames
from .features import FeaturesError
from .frames import FrameReader
from .loader import PlannedLoader
from .mixture import BatchPlanner, Mixture, SampleRef
from .shards import ShardDataset
from .video import VideoError

PIECES = ("read", "decode", "collate")


@dataclass(frozen=True)
class Loaded:
    """A batch of the bench: its frames or features, and the seconds that each of :data:`PIECES` took."""

    frames: Tensor
    videos: int
    unreadable: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class DataSpeed:
    """What was measured over ``batches`` batches, the first ones left out while workers start.

    ``seconds_per_video``: of one worker, by piece. ``wait_share``: of a training step of ``step_s`` seconds the share
    that would be spent waiting for data, 0 where batches come faster than steps.
    """

    videos: int
    unreadable: int
    frames: int
    batches: int
    workers: int
    seconds: float
    seconds_per_video: dict[str, float]
    step_s: float | None

    @property
    def videos_per_s(self) -> float:
        """Videos per second, those that could not be read included."""
        return self.videos / self.seconds

    @property
    def frames_per_s(self) -> float:
        """Frames per second."""
        return self.frames / self.seconds

    @property
    def batch_s(self) -> float:
        """Seconds from one batch to the next when nothing else waits."""
        return self.seconds / self.batches

    @property
    def wait_share(self) -> float | None:
        """See the class; ``None`` without ``step_s``."""
        return None if self.step_s is None else max(0.0, 1 - self.step_s / self.batch_s)

    @property
    def workers_needed(self) -> int | None:
        """How many workers of this speed keep up with ``step_s``, as long as there are cores for them."""
        if self.step_s is None:
            return None
        work_s = sum(self.seconds_per_video.values()) * self.videos / self.batches
        return max(1, int(np.ceil(work_s / self.step_s)))

    def to_json(self) -> dict[str, object]:
        """Plain JSON with the derived figures."""
        names = ("videos_per_s", "frames_per_s", "batch_s", "wait_share", "workers_needed")
        return {**vars(self), **{name: getattr(self, name) for name in names}}


class FrameBatches:
    """Loads the videos of a planned batch: the bytes, ``num_frames`` frames of each, one array of all."""

    def __init__(self, dataset: ShardDataset, num_frames: int, size: int) -> None:
        self.dataset, self.num_frames, self.reader = dataset, num_frames, FrameReader(size)

    def __call__(self, refs: list[SampleRef]) -> Loaded:
        """The batch of ``refs``; what cannot be decoded is counted."""
        seconds, frames, unreadable = dict.fromkeys(PIECES, 0.0), [], 0
        for ref in refs:
            began = time.perf_counter()
            data, name = self.dataset.video_media(ref.index)
            read = time.perf_counter()
            try:
                frames.append(self.reader.read("", partial(_pair, data, name), self.num_frames)[0])
            except (VideoError, FeaturesError):
                unreadable += 1
            seconds["read"] += read - began
            seconds["decode"] += time.perf_counter() - read
        began = time.perf_counter()
        together = join_frames(frames) if frames else torch.zeros(0)
        seconds["collate"] += time.perf_counter() - began
        return Loaded(together, len(refs), unreadable, seconds)


def _pair(data: bytes, name: str) -> tuple[bytes, str]:
    return data, name


def measure(
    path: str | Path,
    *,
    num_frames: int = 16,
    size: int = 490,
    batch_videos: int = 8,
    batches: int = 20,
    workers: int = 2,
    step_s: float | None = None,
    seed: int = 0,
) -> Iterator[DataSpeed]:
    """Read ``batches`` batches through the loader of training; yields the figures so far after each.

    Videos come in the order of an epoch. The first batches, one for each that workers load ahead and one more, are
    not counted. Raises :class:`UserError` for settings that cannot be.
    """
    for name, value in (("frames", num_frames), ("size", size), ("batch-videos", batch_videos), ("batches", batches)):
        if value < 1:
            raise UserError(f"--{name} ({value}) must be 1 or more.")
    if step_s is not None and not step_s > 0:
        raise UserError(f"--step-s ({step_s}) must be more than 0: the seconds of one training step.")
    dataset = ShardDataset(path)
    if not len(dataset.entries):
        raise UserError(f"{path}: holds no video. Build it again: timeexpert data build SAMPLES.jsonl -o {path}")
    planner = BatchPlanner(Mixture([len(dataset.entries)], [1.0], seed), lambda ref: 1, max_samples=batch_videos)
    loader = PlannedLoader(planner, FrameBatches(dataset, num_frames, size), workers)
    speed = DataSpeed(0, 0, 0, 0, workers, 0.0, dict.fromkeys(PIECES, 0.0), step_s)
    spent = dict.fromkeys(PIECES, 0.0)
    stream = iter(loader)
    try:
        for _ in islice(stream, workers * loader.prefetch + 1):
            pass
        began = time.perf_counter()
        for batch, _ in islice(stream, batches):
            videos = speed.videos + batch.videos
            spent = {name: spent[name] + batch.seconds[name] for name in PIECES}
            speed = replace(
                speed,
                videos=videos,
                unreadable=speed.unreadable + batch.unreadable,
                frames=speed.frames + len(batch.frames),
                batches=speed.batches + 1,
                seconds=time.perf_counter() - began,
                seconds_per_video={name: value / videos for name, value in spent.items()},
            )
            yield speed
    finally:
        stream.close()
        dataset.close()
