"""Opening video containers that nobody vouches for: what is refused, and why; and what is known of one that is open.

Only the containers and codecs below are opened. FFmpeg is handed an open file, never a name, and may use no
protocol, so that a playlist that calls itself .mp4 cannot reach another file or address. Pixels are limited
before the first picture is decoded, in FFmpeg's own probing too (a 16384x8192 file of 395 KB took 310 MiB to
probe without, 47 MiB with the limit). Images (PNG, GIF) are refused: they are no videos.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import av

from timeexpert.errors import UserError

from .video_index import raise_if_short_of_memory

# FFmpeg's demuxers; mov reads .mp4 and .m4v too. MPEG program streams (.mpg) are left out: only some of their
# packets carry a time stamp, and FFmpeg gave 58 different ones to 60 frames.
FORMATS = ("mov", "matroska", "webm", "avi", "mpegts")
CODECS = (
    *("h264", "hevc", "vp8", "vp9", "libdav1d", "av1", "mpeg4", "mpeg2video", "mpeg1video", "h263", "msmpeg4"),
    *("msmpeg4v2", "mjpeg", "ffv1", "prores", "dnxhd", "rawvideo"),
)
REENCODE = "Re-encode it, for example: ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4"


class VideoError(UserError):
    """A video that cannot be used. The message names the file, the reason and the way out."""


@dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """What one video may cost. Anything larger is refused, never cut."""

    max_pixels: int = 8192 * 4320  # per frame: 8K
    max_frames: int = 2_000_000
    max_duration_s: float = 12 * 3600.0
    max_bytes: int = 32 * 2**30  # of the file
    max_output_bytes: int = 8 * 2**30  # of the frames that one call returns


@dataclass(frozen=True)
class VideoInfo:
    """What is known about a video.

    ``duration_s`` is the last readable frame's time plus its duration (the packet's own, else the median
    distance between frames). ``width`` and ``height`` are those of the frames as returned, after rotation by
    ``rotation`` (degrees counter-clockwise: 0, 90, 180, 270). ``pixel_aspect`` is a pixel's width / height as
    the file gives it; frames are not stretched by it. ``first_pts_s`` is the first frame's time stamp in the
    file, which is second 0 here. ``damage`` is ``None`` or one sentence on what is missing.
    """

    name: str
    duration_s: float
    num_frames: int
    width: int
    height: int
    rotation: int
    fps: float
    variable_frame_rate: bool
    codec: str
    pix_fmt: str
    first_pts_s: float
    damage: str | None = None
    pixel_aspect: float = 1.0


def open_container(data: io.IOBase, name: str, limits: VideoLimits) -> tuple[Any, Any]:
    """The PyAV container and its video stream, at the start of ``data``. Raises :class:`VideoError`."""
    options = {
        "format_whitelist": ",".join(FORMATS),
        "protocol_whitelist": "none",
        "codec_whitelist": ",".join(CODECS),
        "max_pixels": str(limits.max_pixels),
    }
    data.seek(0)
    try:
        container = av.open(data, "r", options=options, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise_if_short_of_memory(error, data.seek(0, io.SEEK_END))
        data.seek(0)
        raise VideoError(f"{name}: not a readable video: {signature_hint(data.read(64))}") from None
    try:
        stream = _pick_stream(container, name, limits)
    except BaseException:
        container.close()
        raise
    stream.thread_type = "NONE"  # loaders run many processes; one thread each also bounds memory
    stream.codec_context.options = {key: options[key] for key in ("max_pixels", "codec_whitelist")}
    return container, stream


def _pick_stream(container: Any, name: str, limits: VideoLimits) -> Any:
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        kinds = sorted({s.type for s in container.streams}) or ["no streams"]
        raise VideoError(f"{name}: no video in it, only {', '.join(kinds)}. Give a file with a video stream.")
    stream = streams[0]
    codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
    if codec not in CODECS:
        raise VideoError(f"{name}: its codec ({codec}) is not one of {', '.join(CODECS)}. {REENCODE}")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > limits.max_pixels:
        raise VideoError(
            f"{name}: frames of {width}x{height} have more than max_pixels ({limits.max_pixels}). "
            "Scale it down, for example: ffmpeg -i IN -vf scale=1280:-2 OUT.mp4"
        )
    return stream


def signature_hint(head: bytes) -> str:
    """Why FFmpeg will not open a file and what to do, told from its first bytes: the end of an error message."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith((b"ffconcat", b"#EXTM3U")):
        return "it is a playlist that points to other files, which are never opened. Give the video file itself."
    if head.startswith((b"GIF8", b"\x89PNG", b"\xff\xd8\xff")) or head[8:12] == b"WEBP":
        return "it is an image. Make a video of it, for example: ffmpeg -i IN -pix_fmt yuv420p OUT.mp4"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        return "its index (moov) is missing or damaged, so it was probably cut short. Download or copy it again."
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "its Matroska header is damaged. Download or copy it again."
    if head.isascii() and all(32 <= byte or byte in b"\t\r\n" for byte in head):
        return "it is text. Give the video file itself."
    return f"it is damaged or of no container that is opened here ({', '.join(FORMATS)}). {REENCODE}"
