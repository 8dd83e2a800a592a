"""The video of a request: where it may come from, and its frames, decoded in a process of its own.

Nothing is fetched from the network. A file must lie inside the one allowed folder after percent-decoding and
after resolving links. No message says more about the machine than the request did.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote

import numpy as np

from timeexpert.data.pool import Failed, WorkerPool
from timeexpert.data.sampling import SamplingError, sample_frames
from timeexpert.data.video import Video, VideoError

from .limits import RequestError, ServingLimits

NAME = "video_url"
DATA_HEAD = re.compile(r"data:video/([a-z0-9.+-]{1,40});base64", re.IGNORECASE)


@dataclass(frozen=True)
class DecodedVideo:
    """Sampled frames uint8 [n, size, size, 3], their times (seconds), and what is missing of a damaged file."""

    frames: np.ndarray
    times_s: np.ndarray
    duration_s: float
    damage: str | None


def video_source(url: str, allowed_folder: Path | None) -> bytes | Path:
    """The bytes of a ``data:`` URL or the path of a ``file://`` URL. Raises :class:`RequestError`."""
    scheme = url[:20].partition(":")[0].lower()
    if scheme == "data":
        return _data(url)
    if scheme == "file":
        return _file(url, allowed_folder)
    if scheme in ("http", "https"):
        raise RequestError(
            f"{NAME}: {scheme} addresses are not fetched: this server opens no connections. Send the video itself as "
            "data:video/mp4;base64,..."
        )
    raise RequestError(f"{NAME} ({url[:40]!r}) must begin with data:video/mp4;base64, or file://.")


def content_hash(source: bytes | Path) -> str:
    """SHA-256 of a video's bytes. Raises :class:`RequestError` where the file cannot be read."""
    try:
        if isinstance(source, bytes):
            return hashlib.sha256(source).hexdigest()
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # its text holds the path
        raise RequestError(f"{NAME}: cannot be read.") from None


def _data(url: str) -> bytes:
    head, comma, payload = url.partition(",")
    match = DATA_HEAD.fullmatch(head)
    if not match or not comma:
        raise RequestError(f"{NAME} ({head[:80]!r}) must begin with data:video/mp4;base64, (or another video type).")
    if match[1].lower() in ("jpeg", "jpg", "png"):
        raise RequestError(
            f"{NAME}: {head} holds frames without their times, so nobody could say when. Send the video."
        )
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(
            f"{NAME}: not base64: {error}. Use the standard alphabet with padding and no line breaks (base64 -w0)."
        ) from None
    if not data:
        raise RequestError(f"{NAME}: the video is empty (0 bytes).")
    return data


def _file(url: str, allowed_folder: Path | None) -> Path:
    if allowed_folder is None:
        raise RequestError(
            f"{NAME}: file:// is closed. Whoever runs the server can open one folder with --allowed-local-media-path; "
            "or send the video itself as data:video/mp4;base64,..."
        )
    refused = RequestError(f"{NAME}: file:// must name a file inside the folder of --allowed-local-media-path.")
    place = url[len("file:") :]
    if not place.startswith(("///", "//localhost/")):
        raise RequestError(f"{NAME}: write file:///FOLDER/VIDEO.mp4, an absolute path of the server's machine.")
    try:
        path = Path(unquote(place[place.index("/", 2) :], errors="strict"))
        # one answer for outside, absent and unreadable: else it would tell what the machine holds
        path, root = path.resolve(strict=True), allowed_folder.resolve(strict=True)
        inside = path.is_relative_to(root) and path.is_file()
    except (OSError, ValueError, RuntimeError):  # absent or forbidden; NUL or bad UTF-8; a loop of links
        raise refused from None
    if not inside:
        raise refused
    return path


def decode(source: bytes | Path, num_frames: int, size: int, limits: ServingLimits) -> DecodedVideo | str:
    """Evenly spaced frames of one video, or why it is refused. Runs in a worker process."""
    try:
        with Video.open(source, name=NAME, limits=limits.video) as video:
            duration_s = video.info.duration_s
            frames, times_s = sample_frames(video, num_frames, size=(size, size))
            return DecodedVideo(frames, times_s, duration_s, video.info.damage)
    except (VideoError, SamplingError) as error:
        return str(error)
    except OSError:  # its text holds the path
        return f"{NAME}: cannot be read."


class Decoder:
    """One process that decodes: a crash or a hang in it costs one request. Thread-safe; leaving it ends it."""

    def __init__(self, size: int, limits: ServingLimits) -> None:
        self.size, self.limits = size, limits
        self._pool: WorkerPool[DecodedVideo | str] = WorkerPool(decode, 1, limits.decode_timeout_s)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    def __call__(self, source: bytes | Path, num_frames: int) -> DecodedVideo:
        """Raises :class:`RequestError` where the video is refused, crashes the decoder or takes too long."""
        with self._lock:
            (result,) = self._pool.map([(source, num_frames, self.size, self.limits)])
        if isinstance(result, str):
            raise RequestError(result)
        if isinstance(result, Failed):
            if result.reason.startswith("unexpected"):
                raise RuntimeError(f"decoding: {result.reason}")  # ours to mend: logged, not shown
            raise RequestError(f"{NAME}: decoding {result.reason}. Send a shorter, smaller or re-encoded video.")
        return result
