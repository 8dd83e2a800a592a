"""Made-up videos of a red "person" among shots of other colours, and models that see red and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from timeexpert.config import load
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.video import Video
from timeexpert.loomdata import Adapters, AnnotateConfig
from timeexpert.loomdata.persons import Box, Found

FPS, HEIGHT, WIDTH = 10, 96, 128
GROUNDS = ((30, 60, 160), (200, 200, 200), (20, 110, 40), (90, 30, 110), (10, 10, 10), (150, 140, 20))
THREE_OF_FOUR = ((4, True), (2, False), (7, True), (3, True))  # seconds of each shot, and whether the person is in it


def write_shots(path: Path, shots: Sequence[tuple[float, bool]] = THREE_OF_FOUR) -> Path:
    """One shot after the other; the person, a red square of 24 pixels, walks to the right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, (seconds, person) in enumerate(shots):
            for i in range(round(seconds * FPS)):
                image = np.full((HEIGHT, WIDTH, 3), GROUNDS[number % len(GROUNDS)], np.uint8)
                if person:
                    image[40:64, 8 + i % 90 : 32 + i % 90] = (225, 20, 20)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def red(image: np.ndarray) -> np.ndarray:
    """Which pixels are red."""
    values = image.astype(int)
    return (values[..., 0] > 150) & (values[..., 1] < 90) & (values[..., 2] < 90)


class SeesRed:
    """A detector whose best box lies around what is red."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def best(self, image: np.ndarray, text: str) -> Found | None:
        self.asked.append(text)
        rows, columns = np.nonzero(red(image))
        if not len(rows):
            return Found((0.0, 0.0, 8.0, 8.0), 0.1)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        return Found(tuple(float(v) for v in box), 0.9)  # type: ignore[arg-type]


class FollowsRed:
    """A tracker that loses for good what is out of sight once."""

    def track(self, video: Video, times_s: Sequence[float], prompt: int, box: Box) -> MaskTrack:
        masks = [red(frame) for frame in video.frames_at(times_s)[0]]
        for way in (range(prompt, len(masks)), range(prompt, -1, -1)):
            lost = False
            for i in way:
                lost = lost or not masks[i].any()
                masks[i] = masks[i] & (not lost)
        return MaskTrack.from_masks(masks, times_s)


def adapters() -> Adapters:
    """Both, without a model."""
    return Adapters(detector=lambda _: SeesRed(), tracker=lambda _: FollowsRed())


def settings(base_url: str, *more: str) -> AnnotateConfig:
    """Settings for this endpoint; it is asked without pauses between tries."""
    words = (f"endpoint.base_url={base_url}", "endpoint.model=tiny", "endpoint.backoff_s=0", "track.fps=4")
    return load(AnnotateConfig, None, [*words, *more])
