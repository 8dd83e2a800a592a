"""Small real media files and Sample lines for the tests of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np


def write_video(path: Path, num_frames: int = 10, fps: int = 5, brightness: int = 0) -> Path:
    """A 64x48 MP4 (or whatever the extension says) of noise: ``num_frames / fps`` seconds, some kilobytes a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(num_frames * 1000 + brightness)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(num_frames):
            image = noise.integers(brightness, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """A file with an audio stream and nothing else."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def question(id: str, video: str, start_s: float = 0.0, end_s: float = 1.0, **fields: Any) -> dict[str, Any]:
    """A Sample line as a dict, with one event."""
    event = {"start_s": start_s, "end_s": end_s, "scores": [], "text": "a red square"}
    row = {"id": id, "video": video, "task": "moment_retrieval", "prompt": "When does it appear?", "events": [event]}
    return {**row, **fields}


def write_lines(path: Path, rows: list[dict[str, Any] | str]) -> Path:
    """Sample lines; a row that is text is written as it is."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
