"""Clips as a few JPEG frames with their exact times: what training decodes is then small, and found without seeking.

A cached clip is an MP4 of JPEG frames. Every frame keeps the time at which the original shows it, and the last one
lasts to the original's end, so samples, shards and the frame sampler need to know nothing of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from timeexpert.errors import UserError

from .media import resolve_media
from .pool import Failed, WorkerPool
from .records import SampleError, read_samples
from .shard_index import write_atomically

SAMPLES, FAILED, SETTINGS = "samples.jsonl", "failed.jsonl", "cache.json"
TIME_BASE = Fraction(1, 1_000_000)  # seconds are kept to the microsecond
FRAMES_AT_ONCE = 64


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


@dataclass(frozen=True)
class Settings:
    """``fps``: frames that are kept per second at most. ``size``: pixels of a frame's square side, as the model sees
    it; None keeps the clip's own. ``quality``: JPEG's quantiser, 2 (best) to 31."""

    fps: float
    size: int | None
    quality: int


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
    """Write ``out/media`` and ``out/samples.jsonl``, which ``data build`` takes in place of ``samples`` and ``media``.

    The frames on screen at 0, 1 / fps, 2 / fps, ... seconds are kept, each once. The same call goes on where one was
    cut off. Clips that cannot be read stand in ``failed.jsonl``; their samples are left out. Raises
    :class:`UserError`.
    """
    samples, media, out = Path(samples), Path(media), Path(out)
    settings = Settings(fps, size, quality)
    _check(samples, media, settings)
    (out / "media").mkdir(parents=True, exist_ok=True)
    _same_settings(out, settings)
    by_video = _videos(samples)
    report, failed = CacheReport(str(out)), {}
    names = {video: cached_name(video) for video in by_video}
    with WorkerPool(_cache_one, workers, timeout_s) as pool:
        found = pool.map((media, video, out / "media" / names[video], settings) for video in by_video)
        for number, (video, made) in enumerate(zip(by_video, found, strict=True), 1):
            if isinstance(made, Failed):
                failed[video] = made.about(video)
            else:
                report.clips += 1
                report.reused += made["reused"]
                report.bytes_before += made["before"]
                report.bytes_after += made["after"]
            if progress is not None:
                progress(number, len(by_video), video)
    kept = [{**row, "video": names[row["video"]]} for v, rows in by_video.items() if v not in failed for row in rows]
    report.samples, report.failed, report.reasons = len(kept), len(failed), failed
    lines = [{"video": video, "reason": reason, "samples": len(by_video[video])} for video, reason in failed.items()]
    for name, rows in ((SAMPLES, kept), (FAILED, lines)):
        write_atomically(out / name, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return report


def cached_name(video: str) -> str:
    """The cached clip's path below ``media``: an MP4 keeps its name, another file gets ``.mp4`` behind it."""
    path = PurePosixPath(video)
    return path.as_posix() if path.suffix.lower() == ".mp4" else path.with_name(path.name + ".mp4").as_posix()


def _check(samples: Path, media: Path, settings: Settings) -> None:
    if not samples.is_file():
        raise UserError(f"{samples}: no such file. Give a Sample .jsonl, as timeexpert data convert writes it.")
    if not media.is_dir():
        raise UserError(f"{media}: no such folder. --media is the folder that the samples' video paths start from.")
    if not 0 < settings.fps <= 1000:
        raise UserError(f"--fps ({settings.fps}) must be above 0 and at most 1000: frames kept per second.")
    if settings.size is not None and not 16 <= settings.size <= 4096:
        raise UserError(f"--size ({settings.size}) must be 16 to 4096 pixels.")
    if not 2 <= settings.quality <= 31:
        raise UserError(f"--quality ({settings.quality}) must be 2 (best) to 31.")


def _same_settings(out: Path, settings: Settings) -> None:
    file, now = out / SETTINGS, json.dumps(vars(settings))
    if file.is_file() and (was := file.read_text(encoding="utf-8")) != now:
        raise UserError(f"{out}: was begun with other settings ({was}, now {now}). Use those, or give another -o.")
    write_atomically(file, now.encode())


def _videos(samples: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each video, in order. Raises :class:`UserError` for a bad line, and where two names would be one."""
    by_video: dict[str, list[dict[str, Any]]] = {}
    for _, sample in read_samples(samples):
        if isinstance(sample, SampleError):
            raise UserError(f"{sample} Mend the line: timeexpert data validate {samples} lists all such lines.")
        by_video.setdefault(sample.video, []).append(sample.to_json())
    taken: dict[str, str] = {}
    for video in by_video:
        other = taken.setdefault(cached_name(video), video)
        if other != video:
            raise UserError(f"{samples}: {video} and {other} would both become {cached_name(video)}. Rename one.")
    return by_video


def _cache_one(media: Path, video: str, out: Path, settings: Settings) -> dict[str, Any]:
    """Write one cached clip, or find it written; bytes before and after."""
    from .video import Video, on_screen

    source = resolve_media(media, video)
    before = source.stat().st_size
    if out.is_file():
        with suppress(UserError), Video.open(out):
            return {"reused": True, "before": before, "after": out.stat().st_size}
    out.parent.mkdir(parents=True, exist_ok=True)
    with Video.open(source, name=video) as opened:
        end_s = opened.info.duration_s
        asked_s = np.arange(0.0, end_s, 1 / settings.fps)
        times_s = opened.frame_times_s[np.unique(on_screen(opened.frame_times_s, asked_s))]
        square = None if settings.size is None else (settings.size, settings.size)
        parts = (opened.frames_at(part, square) for part in np.split(times_s, range(0, len(times_s), FRAMES_AT_ONCE)))
        _write(out, ((frame, t) for part in parts for frame, t in zip(*part, strict=True)), end_s, settings.quality)
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
