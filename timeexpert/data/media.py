"""Media files under a folder: found without leaving it, opened and decoded once, named for a shard.

This is what worker processes run; it imports little, so that they start fast.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from timeexpert.errors import UserError

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts")
    + (".mpg", ".mpeg", ".flv", ".wmv", ".ogv", ".3gp", ".gif", ".m4a")  # not decoded here: listed with the reason
)
FEATURES_SUFFIX = ".features"  # of a file that holds what a vision tower made of a clip: features.py
MAX_VIDEO_BYTES = 4 * 2**30  # a video is held in memory while it is written and read


class MediaError(UserError):
    """A media file that is missing, lies outside its folder, or cannot be stored. Names the file and the way out."""


@dataclass(frozen=True)
class Probe:
    """What a worker found out about one media file."""

    sha256: str
    size: int
    info: dict[str, Any]


def is_features(name: str | Path) -> bool:
    """Whether a file of this name holds features in place of a video."""
    return PurePosixPath(name).suffix == FEATURES_SUFFIX


def probe(media: Path, video: str, decode: bool) -> Probe:
    """Open a media file (and decode every frame once). Raises :class:`UserError` with the name and the reason."""
    video_member_key(video)
    path = resolve_media(media, video)
    size = path.stat().st_size
    if size > MAX_VIDEO_BYTES:
        raise MediaError(f"{video}: {size} bytes are more than {MAX_VIDEO_BYTES}. Cut or re-encode it.")
    data = path.read_bytes()
    return Probe(hashlib.sha256(data).hexdigest(), len(data), describe(data, video, decode))


def describe(data: bytes, name: str, decode: bool) -> dict[str, Any]:
    """What is known of a clip, a video or its features; ``decode`` reads all of it. Raises :class:`UserError`."""
    from .video import Video

    if is_features(name):
        from .features import FeatureFile  # which needs torch

        return FeatureFile(data, name).info(check=decode)
    with Video.open(data, name=name) as opened:
        info = opened.check() if decode else opened.info
    return {k: v for k, v in asdict(info).items() if k != "name"}


def require_media(media: Path, error: type[UserError]) -> None:
    """Raise ``error`` unless ``media`` is a folder."""
    if not media.is_dir():
        raise error(f"{media}: no such folder. --media is the folder that the samples' video paths start from.")


def resolve_media(media: Path, video: str) -> Path:
    """The file of ``video`` inside ``media``. Raises :class:`MediaError` where it is missing or lies elsewhere."""
    try:
        root, path = media.resolve(strict=True), (media / video).resolve(strict=True)
    except FileNotFoundError:
        raise MediaError(f"{video}: no such file in the media folder. Check the name and --media.") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise MediaError(f"{video!r}: cannot be looked up: {error}") from None
    if not path.is_relative_to(root):
        raise MediaError(f"{video}: leads outside the media folder (a link). Copy the file into the media folder.")
    if not path.is_file():
        raise MediaError(f"{video}: not a regular file. Give the path of a video file.")
    return path


def video_member_key(video: str) -> tuple[str, str]:
    """(key, extension) of a video's members: readable, without dots, unique by a hash of the path."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", str(PurePosixPath(video).with_suffix("")))[-40:].strip("_")
    key = f"{slug or 'video'}-{hashlib.sha256(os.fsencode(video)).hexdigest()[:20]}"
    extension = PurePosixPath(video).suffix[1:].lower()
    if not re.fullmatch(r"[a-z0-9]{1,8}", extension) or extension == "json":
        raise MediaError(f"{video}: its extension ({extension!r}) must be that of a video, for example .mp4.")
    return key, extension
