"""Encoded videos: many questions about one video pay for its frames once.

Two caches by content hash and number of frames. What the decoder keeps of a video (keys and values) spares everything
but the question, and is large; the visual tokens, a hundredth of it for large models, spare decoding and the vision
tower. Used by the model's thread; ``knows`` and ``stats`` by others, who only look.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from timeexpert.model.decoding import EncodedVideo
from timeexpert.predict import Clip, Predictor

from .byte_cache import ByteCache
from .limits import RequestError, ServingLimits
from .media import DecodedVideo
from .ticket import FrameSequence


@dataclass(frozen=True)
class Known:
    """An encoded video with what an answer says about it: frame times and duration (seconds), damage."""

    video: EncodedVideo
    times_s: np.ndarray
    duration_s: float
    damage: str | None
    frames: np.ndarray  # uint8 [n, H, W, 3]; [0, H, W, 3] where the model draws no masks, so that nobody needs them


class Encoder:
    """Frames through tower, compressor and decoder, or what is remembered of them."""

    def __init__(self, predictor: Predictor, limits: ServingLimits) -> None:
        self.predictor = predictor
        self._prefixes: ByteCache[Known] = ByteCache(limits.prefix_cache_bytes)
        self._visual: ByteCache[tuple[Tensor, DecodedVideo]] = ByteCache(limits.visual_cache_bytes)

    def knows(self, key: Hashable) -> bool:
        """Whether it needs no frames for this video (as long as nothing is thrown out)."""
        return key in self._prefixes or key in self._visual

    def stats(self) -> dict[str, int]:
        """Bytes and videos in the two caches."""
        return {
            "cache_bytes": self._prefixes.bytes + self._visual.bytes,
            "cached_videos": len(self._visual),
            "cached_prefixes": len(self._prefixes),
        }

    def __call__(self, key: Hashable, decoded: DecodedVideo | None) -> tuple[Known | None, bool]:
        """The video, and whether the caches spared its frames. ``None`` where they must be decoded first."""
        known = self._prefixes.get(key)
        if known is not None:
            return known, True
        kept = self._visual.get(key)
        found = kept is not None
        if kept is None:
            if decoded is None:
                return None, False
            visual = self.predictor.visual_tokens(Clip(decoded.frames, decoded.times_s, decoded.duration_s))
            frames = decoded.frames if self.predictor.draws_masks else decoded.frames[:0].copy()
            kept = visual, DecodedVideo(frames, *_rest(decoded))
            self._visual.put(key, kept, visual.nbytes + frames.nbytes)
        visual, about = kept
        video = self.predictor.encode_visual(visual, about.times_s)
        known = Known(video, about.times_s, about.duration_s, about.damage, about.frames)
        self._prefixes.put(key, known, video.nbytes + known.frames.nbytes)
        return known, found


def _rest(decoded: DecodedVideo) -> tuple[np.ndarray, float, str | None]:
    return decoded.times_s, decoded.duration_s, decoded.damage


def sampled(video: FrameSequence, size: int) -> tuple[DecodedVideo, Hashable]:
    """Frames of any size as the model takes them, and the key of their content.

    The last frame is taken to last as long as the frames' median distance. Raises :class:`RequestError`.
    """
    frames, times_s = video.frames, np.asarray(video.times_s, dtype=np.float64)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) != len(times_s):
        raise RequestError(
            f"frames: {frames.shape} {frames.dtype} with {len(times_s)} times; send RGB with a time each."
        )
    if not len(frames) or not np.isfinite(times_s).all() or (np.diff(times_s) < 0).any() or times_s[0] < 0:
        raise RequestError("frames: their times must be numbers of seconds from 0 on, in order, at least one.")
    step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    digest = hashlib.sha256(repr(frames.shape).encode() + np.ascontiguousarray(frames).tobytes() + times_s.tobytes())
    if frames.shape[1:3] != (size, size):
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
        small = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        frames = small.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return DecodedVideo(frames, times_s, float(times_s[-1]) + step_s, None), ("frames", digest.hexdigest())
