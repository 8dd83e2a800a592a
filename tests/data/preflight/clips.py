"""Small clips of known pictures, and what a preflight finds in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from timeexpert.data.preflight.check import Place, check_clip
from timeexpert.data.preflight.findings import CheckedClip, judge
from timeexpert.data.preflight.run import read_clips
from timeexpert.data.preflight.stretches import StretchConfig

HEIGHT, WIDTH = 96, 128


def write_frames(
    path: Path, frames: Iterable[np.ndarray], fps: int = 10, times_s: Sequence[float] | None = None, **options: str
) -> Path:
    """An H.264 file of RGB frames (96x128), ``fps`` a second or at ``times_s``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt, stream.options = HEIGHT, WIDTH, "yuv420p", options
        if times_s is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            if times_s is not None:
                frame.pts, frame.time_base = round(times_s[i] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def moving(num_frames: int, pixels_per_frame: float = 2, ground: int = 90) -> list[np.ndarray]:
    """A bright square of 24 pixels that runs to the right over a flat ground."""
    frames = []
    for i in range(num_frames):
        frame = np.full((HEIGHT, WIDTH, 3), ground, np.uint8)
        x = int(i * pixels_per_frame) % (WIDTH - 24)
        frame[30:54, x : x + 24] = (220, 60, 40)
        frames.append(frame)
    return frames


def still(num_frames: int, seed: int = 0) -> list[np.ndarray]:
    """The same picture of coarse noise again and again."""
    small = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    return [small.repeat(8, 0).repeat(8, 1)] * num_frames


def black(num_frames: int) -> list[np.ndarray]:
    return [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * num_frames


def judged(path: Path, config: StretchConfig | None = None) -> CheckedClip:
    """A file checked in this process, with its findings."""
    facts = check_clip(Place(path.parent, path.name), config or StretchConfig())
    clip = CheckedClip(path.name, None, facts=facts)
    judge(clip, (), ())
    return clip


def found(path: Path, config: StretchConfig | None = None) -> dict[str, str]:
    """Findings of a file: sentence by kind."""
    return {finding.kind: finding.text for finding in judged(path, config).findings}


def kinds(out: Path) -> dict[str, list[str]]:
    return {clip.video: [finding.kind for finding in clip.findings] for clip in read_clips(out)}
