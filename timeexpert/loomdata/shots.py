"""Shots of a video: PySceneDetect's cuts joined with KTS's change points, the short ones merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from timeexpert.data.media import resolve_media
from timeexpert.data.video import Video
from timeexpert.errors import UserError

from .config import ShotsConfig
from .features import colour_features

SIDE = 256  # pixels of the longer side that PySceneDetect sees; its own down-scaling aims at the same
SAME_CUT_S = 1e-3


@dataclass(frozen=True)
class Cut:
    """A boundary between two shots: the time of the first frame after it, and who found it."""

    time_s: float
    source: Literal["scene", "kts"]


@dataclass(frozen=True)
class Shot:
    """A stretch of video, its end not included."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Seconds from start to end."""
        return self.end_s - self.start_s

    @property
    def centre_s(self) -> float:
        """The time of its middle."""
        return (self.start_s + self.end_s) / 2


@dataclass(frozen=True, eq=False)
class Looked:
    """What decoding a video once has shown. ``features`` [n, D] describe the frames at ``feature_times_s`` [n]."""

    duration_s: float
    num_frames: int
    size: tuple[int, int]  # height, width
    scene_cuts_s: tuple[float, ...]
    feature_times_s: NDArray[np.float64]
    features: NDArray[np.float32]


def look(media: Path, video: str, config: ShotsConfig) -> Looked:
    """Decode ``video`` once: PySceneDetect's cuts and the colours of ``kts_fps`` frames a second.

    Every frame goes through :class:`timeexpert.data.video.Video`, which bounds what untrusted files may do;
    PySceneDetect opens no file. Raises ``UserError`` with the video's name.
    """
    from scenedetect import FrameTimecode

    times: list[float] = []
    cuts: list[int] = []
    sampled: list[tuple[float, NDArray[np.float32]]] = []
    due = 0
    with Video.open(resolve_media(media, video), name=video) as opened:
        info, detector = opened.info, _detector(config)
        shrink = min(1.0, SIDE / max(info.height, info.width))
        height, width = max(2, round(info.height * shrink)), max(2, round(info.width * shrink))
        for time_s, picture in opened.each_frame():
            if times and time_s <= times[-1]:
                continue  # damaged time stamps: out of order
            frame = picture(height, width)
            if time_s * config.kts_fps >= due - 1e-6:
                sampled.append((time_s, colour_features(frame)))
                due = int(time_s * config.kts_fps + 1e-6) + 1
            here = FrameTimecode(len(times), fps=info.fps)
            times.append(time_s)
            cuts += [cut.frame_num for cut in detector.process_frame(here, np.ascontiguousarray(frame[:, :, ::-1]))]
        info = opened.info
        cuts += [cut.frame_num for cut in detector.post_process(FrameTimecode(len(times), fps=info.fps))]
    return Looked(
        duration_s=info.duration_s,
        num_frames=len(times),
        size=(info.height, info.width),
        scene_cuts_s=tuple(times[i] for i in sorted(set(cuts)) if 0 < i < len(times)),
        feature_times_s=np.array([time_s for time_s, _ in sampled]),
        features=np.stack([row for _, row in sampled]),
    )


def require_scenedetect() -> str:
    """PySceneDetect's version. Raises ``UserError`` where it is not installed."""
    try:
        import scenedetect
    except ImportError as error:
        raise UserError(f"{error.name} is not installed. Run: pip install 'timeexpert[loomdata]'") from None
    return str(scenedetect.__version__)


def _detector(config: ShotsConfig) -> Any:
    from scenedetect import AdaptiveDetector, ContentDetector

    kind, name = {
        "adaptive": (AdaptiveDetector, "adaptive_threshold"),
        "content": (ContentDetector, "threshold"),
    }[config.detector]
    return kind() if config.threshold is None else kind(**{name: config.threshold})


def join(scene_cuts_s: Sequence[float], change_points_s: Sequence[float], duration_s: float) -> list[Cut]:
    """Both kinds of boundaries in order of time; one that both found is PySceneDetect's."""
    cuts = [Cut(float(t), "scene") for t in scene_cuts_s]
    for time_s in change_points_s:
        if all(abs(time_s - t) > SAME_CUT_S for t in scene_cuts_s):
            cuts.append(Cut(float(time_s), "kts"))
    return sorted((cut for cut in cuts if 0 < cut.time_s < duration_s), key=lambda cut: cut.time_s)


def shots_between(cuts: Sequence[Cut], duration_s: float, min_shot_s: float) -> list[Shot]:
    """The shots between ``cuts``, none shorter than ``min_shot_s`` unless the video is.

    The shortest one is merged first. It loses a boundary that KTS found rather than one of PySceneDetect's, which are
    exact to the frame; of two of a kind, the one towards its shorter neighbour.
    """
    left = list(cuts)
    while left:
        edges = [0.0, *(cut.time_s for cut in left), duration_s]
        lengths = [end - start for start, end in pairwise(edges)]
        i = min(range(len(lengths)), key=lengths.__getitem__)
        if lengths[i] >= min_shot_s:
            break
        sides = [k for k in (i - 1, i) if 0 <= k < len(left)]  # cut k lies between shots k and k + 1
        left.pop(min(sides, key=lambda k: (left[k].source == "scene", lengths[k if k < i else k + 1])))
    return [Shot(a, b) for a, b in pairwise([0.0, *(cut.time_s for cut in left), duration_s])]
