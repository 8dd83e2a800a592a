"""Clips kept ahead of time in a form that is quick to read, with their exact times: here as a few JPEG frames.

A cached clip is an MP4 of JPEG frames. Every frame keeps the time at which the original shows it, and the last one
lasts to the original's end, so samples, shards and the frame sampler need to know nothing of it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from timeexpert.errors import UserError

from .lock import locked
from .media import require_media, resolve_media
from .pool import Failed, WorkerPool
from .records import SampleError, read_samples
from .sample_lines import require_samples
from .shard_index import write_atomically

SAMPLES, FAILED, SETTINGS = "samples.jsonl", "failed.jsonl", "cache.json"
TIME_BASE = Fraction(1, 1_000_000)  # seconds are kept to the microsecond
FRAMES_AT_ONCE = 64
DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class CacheError(UserError):
    """A cache that cannot be begun or gone on with. Clips that are kept stay."""


@dataclass
class CacheReport:
    """What a call did. ``reused``: clips that were there already; ``failed``: those of ``failed.jsonl``."""

    out: str
    clips: int = 0
    reused: int = 0
    failed: int = 0
    samples: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


class Kind(Protocol):
    """A form in which clips are kept. It is sent to worker processes."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the folder is begun with and must be gone on with, as JSON."""
        ...

    def name(self, video: str) -> str:
        """The kept clip's path below ``media``."""
        ...

    def check(self, path: Path) -> None:
        """Raises :class:`UserError` where ``path`` is not a whole kept clip."""
        ...

    def write(self, source: Path, video: str, out: Path) -> None:
        """Write a clip to ``out``, whole or not at all. Raises :class:`UserError`; ``OSError`` when the disk does."""
        ...


@dataclass(frozen=True)
class JpegClips:
    """MP4s of JPEG. ``fps``: frames that are kept per second at most. ``size``: pixels of a frame's square side, as the
    model sees it; None keeps the clip's own. ``quality``: JPEG's quantiser, 2 (best) to 31."""

    fps: float
    size: int | None
    quality: int

    def __post_init__(self) -> None:
        check_fps(self.fps)
        if self.size is not None and not 16 <= self.size <= 4096:
            raise CacheError(f"--size ({self.size}) must be 16 to 4096 pixels.")
        if not 2 <= self.quality <= 31:
            raise CacheError(f"--quality ({self.quality}) must be 2 (best) to 31.")

    @property
    def settings(self) -> dict[str, Any]:
        """As :class:`Kind`."""
        return vars(self)

    def name(self, video: str) -> str:
        """An MP4 keeps its name, another file gets ``.mp4`` behind it."""
        path = PurePosixPath(video)
        return path.as_posix() if path.suffix.lower() == ".mp4" else path.with_name(path.name + ".mp4").as_posix()

    def check(self, path: Path) -> None:
        """As :class:`Kind`."""
        from .video import Video

        Video.open(path).close()

    def write(self, source: Path, video: str, out: Path) -> None:
        """As :class:`Kind`."""
        from .video import Video

        with Video.open(source, name=video) as opened:
            end_s = opened.info.duration_s
            times_s = opened.frame_times_s[frames_per_second(opened.frame_times_s, end_s, self.fps)]
            square = None if self.size is None else (self.size, self.size)
            parts = (opened.frames_at(part, square) for part in in_parts(times_s))
            _write(out, ((frame, t) for part in parts for frame, t in zip(*part, strict=True)), end_s, self.quality)


def check_fps(fps: float) -> None:
    """Raises :class:`CacheError` for a rate that cannot be."""
    if not 0 < fps <= 1000:
        raise CacheError(f"--fps ({fps}) must be above 0 and at most 1000: frames kept per second.")


def frames_per_second(frame_times_s: np.ndarray, duration_s: float, fps: float) -> np.ndarray:
    """Places (int64, sorted) of the frames on screen at 0, 1 / fps, 2 / fps, ... seconds, each once."""
    from .video_index import on_screen

    return np.unique(on_screen(frame_times_s, np.arange(0.0, duration_s, 1 / fps)))


def in_parts(times_s: np.ndarray) -> list[np.ndarray]:
    """The times of as many frames as are decoded at once."""
    return np.split(times_s, range(FRAMES_AT_ONCE, len(times_s), FRAMES_AT_ONCE))


def cache_frames(
    samples: str | Path,
    media: str | Path,
    out: str | Path,
    *,
    fps: float = 2.0,
    size: int | None = 490,
    quality: int = 2,
    workers: int = 1,
    timeout_s: float = 600,
    progress: Callable[[int, int, str], None] | None = None,
) -> CacheReport:
    """:func:`cache_clips` as JPEG: of the frames on screen at 0, 1 / fps, 2 / fps, ... seconds, each once."""
    kind = JpegClips(fps, size, quality)
    return cache_clips(samples, media, out, kind, workers=workers, timeout_s=timeout_s, progress=progress)


def cache_clips(
    samples: str | Path,
    media: str | Path,
    out: str | Path,
    kind: Kind,
    *,
    workers: int = 1,
    timeout_s: float = 600,
    progress: Callable[[int, int, str], None] | None = None,
) -> CacheReport:
    """Write ``out/media`` and ``out/samples.jsonl``, which ``data build`` takes in place of ``samples`` and ``media``.

    The same call goes on where one was cut off. Clips that cannot be read stand in ``failed.jsonl``; their samples are
    left out. Raises :class:`CacheError`, also where another process is writing into ``out``.
    """
    samples, media, out = Path(samples), Path(media), Path(out)
    require_samples(samples, CacheError)
    require_media(media, CacheError)
    (out / "media").mkdir(parents=True, exist_ok=True)
    with locked(out, "data cache", CacheError):
        _same_settings(out, kind.settings)
        by_video = _videos(samples, kind)
        report, failed = CacheReport(str(out)), dict[str, str]()
        with WorkerPool(partial(_cache_one, kind), workers, timeout_s) as pool:
            found = pool.map((media, video, out / "media" / kind.name(video)) for video in by_video)
            for number, (video, made) in enumerate(zip(by_video, found, strict=True), 1):
                if isinstance(made, Failed):
                    failed[video] = made.about(video)
                elif "disk" in made:
                    raise CacheError(
                        f"{out}: cannot write: {made['disk']}. {report.clips} clips are kept: free space, then run the "
                        "same command again to go on."
                    )
                else:
                    report.clips += 1
                    report.reused += made["reused"]
                    report.bytes_before += made["before"]
                    report.bytes_after += made["after"]
                if progress is not None:
                    progress(number, len(by_video), video)
        kept = [{**row, "video": kind.name(v)} for v, rows in by_video.items() if v not in failed for row in rows]
        report.samples, report.failed, report.reasons = len(kept), len(failed), failed
        lines = [{"video": v, "reason": reason, "samples": len(by_video[v])} for v, reason in failed.items()]
        for name, rows in ((SAMPLES, kept), (FAILED, lines)):
            write_atomically(out / name, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return report


def _same_settings(out: Path, settings: dict[str, Any]) -> None:
    file, now = out / SETTINGS, json.dumps(settings)
    if file.is_file() and (text := file.read_text(encoding="utf-8")) != now:
        try:
            was = dict(json.loads(text))
        except (ValueError, TypeError):
            raise CacheError(f"{file}: not readable. Give another -o, or delete the folder.") from None
        names = [name for name in {**was, **settings} if was.get(name) != json.loads(now).get(name)]
        changed = "; ".join(f"{name} {was.get(name)}, now {settings.get(name)}" for name in names)
        raise CacheError(f"{out}: was begun with other settings ({changed}). Use those, or give another -o.")
    write_atomically(file, now.encode())


def _videos(samples: Path, kind: Kind) -> dict[str, list[dict[str, Any]]]:
    """The rows of each video, in order. Raises :class:`CacheError` for a bad line, and where two names would be one."""
    by_video: dict[str, list[dict[str, Any]]] = {}
    for _, sample in read_samples(samples):
        if isinstance(sample, SampleError):
            raise CacheError(f"{sample} Mend the line: timeexpert data validate {samples} lists all such lines.")
        by_video.setdefault(sample.video, []).append(sample.to_json())
    taken: dict[str, str] = {}
    for video in by_video:
        other = taken.setdefault(kind.name(video), video)
        if other != video:
            raise CacheError(f"{samples}: {video} and {other} would both become {kind.name(video)}. Rename one.")
    return by_video


def _cache_one(kind: Kind, media: Path, video: str, out: Path) -> dict[str, Any]:
    """Write one clip, or find it written: bytes before and after; or why the ``disk`` takes no more."""
    source = resolve_media(media, video)
    before = source.stat().st_size
    if out.is_file():
        with suppress(UserError):
            kind.check(out)
            return {"reused": True, "before": before, "after": out.stat().st_size}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        kind.write(source, video, out)
    except OSError as error:
        if error.errno in DISK_REFUSES:
            return {"disk": error.strerror}
        raise
    return {"reused": False, "before": before, "after": out.stat().st_size}


def _write(out: Path, frames: Any, end_s: float, quality: int) -> None:
    """An MP4 of JPEG frames at their times, the last of which lasts until ``end_s``; whole or not at all.

    With full colour resolution: a frame that was made smaller has it, and halving it costs more than it saves.
    """
    import av

    temporary = out.with_name(f".{out.name}.part")
    stream: Any = None
    waiting: Any = None
    shown = -1
    scale = {"video_track_timescale": str(TIME_BASE.denominator)}
    with av.open(str(temporary), "w", format="mp4", options=scale) as container:

        def put(next_pts: int) -> None:
            for packet in stream.encode(waiting):
                packet.pts = packet.dts = waiting.pts
                packet.duration, packet.time_base = next_pts - waiting.pts, TIME_BASE
                container.mux(packet)

        for image, time_s in frames:
            pts = round(float(time_s) / TIME_BASE)
            if pts <= shown:  # where a frame does not decode, the one before it stands in
                continue
            if stream is None:
                stream = container.add_stream("mjpeg", rate=25)
                (stream.height, stream.width), stream.pix_fmt = image.shape[:2], "yuvj444p"
                stream.time_base = stream.codec_context.time_base = TIME_BASE
                stream.codec_context.qmin = stream.codec_context.qmax = quality
            else:
                put(pts)
            waiting, shown = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj444p"), pts
            waiting.pts, waiting.time_base = pts, TIME_BASE
        put(max(shown + 1, round(end_s / TIME_BASE)))
    os.replace(temporary, out)
