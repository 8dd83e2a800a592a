"""Image parts as a video: each image with the time that stands before it, decoded in a process of its own."""

from __future__ import annotations

import re
import threading
from types import TracebackType
from typing import Self

import numpy as np

from timeexpert.data.pool import Failed, WorkerPool

from .engine import FrameSequence
from .images import decode
from .limits import RequestError, ServingLimits, stopping
from .sources import decoded_base64

TIME = re.compile(r"<([0-9]{1,6}(?:\.[0-9]{1,6})?) seconds>")
IMAGE_HEAD = re.compile(r"data:image/(png|jpeg|jpg|webp);base64", re.IGNORECASE)


def image_bytes(where: str, url: str) -> bytes:
    """The bytes of a ``data:image/...;base64,`` URL. Raises :class:`RequestError`."""
    head, comma, payload = url.partition(",")
    if not IMAGE_HEAD.fullmatch(head) or not comma:
        raise RequestError(
            f"{where}.image_url.url ({head[:40]!r}) must begin with data:image/png;base64, (or jpeg, webp)."
        )
    return decoded_base64(payload, f"{where}.image_url.url", "image")


class ImageDecoder:
    """One process, started with the first request that needs it. Thread-safe; leaving it ends the process."""

    def __init__(self, size: int, limits: ServingLimits) -> None:
        self.size, self.limits = size, limits
        self._pool: WorkerPool[np.ndarray | str] | None = None
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(limits.max_waiting_images)
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)

    def __call__(self, images: list[bytes], times_s: list[float]) -> FrameSequence:
        """Raises :class:`RequestError` where an image is refused, crashes the decoder or takes too long."""
        if not self._places.acquire(blocking=False):
            words = f"{self.limits.max_waiting_images} requests with images wait already; ask again in 5 s."
            raise RequestError(words, 429, "overloaded_error", {"Retry-After": "5"})
        try:
            result = self._decoded(images)
        finally:
            self._places.release()
        if isinstance(result, str):
            raise RequestError(result)
        if isinstance(result, Failed):
            if result.reason.startswith("unexpected"):
                raise RuntimeError(f"decoding images: {result.reason}")  # ours to mend: logged, not shown
            raise RequestError(f"image_url: decoding {result.reason}. Send smaller images.")
        return FrameSequence(result, tuple(times_s))

    def _decoded(self, images: list[bytes]) -> np.ndarray | str | Failed:
        with self._lock:
            if self._closed:
                raise stopping()
            if self._pool is None:
                self._pool = WorkerPool(
                    decode, 1, self.limits.decode_timeout_s, self.limits.decode_memory_bytes
                ).__enter__()
            (result,) = self._pool.map([(images, self.size, self.limits.video.max_pixels)])
        return result
