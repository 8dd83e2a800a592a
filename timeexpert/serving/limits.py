"""What one request, and all of them together, may cost; and the error that says which rule was broken."""

from __future__ import annotations

from dataclasses import dataclass, field

from timeexpert.data.video import VideoLimits
from timeexpert.errors import UserError


class RequestError(UserError):
    """A request that is refused. ``status`` and ``kind`` are HTTP's and OpenAI's words for it, ``headers`` go along."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.headers = status, kind, headers or {}


def stopping() -> RequestError:
    """What is told to whoever asks, or still waits, when the server stops."""
    headers = {"Retry-After": "5", "Connection": "close"}
    return RequestError("the server is stopping; ask again in 5 s.", 503, "overloaded_error", headers)


def disk_full() -> RequestError:
    """What is told where no more videos can be kept."""
    words = "the server's disk space for videos is used up; delete files (DELETE /v1/files/ID) or try again later."
    return RequestError(words, 507, "overloaded_error", {"Retry-After": "60"})


def served_video_limits() -> VideoLimits:
    """Tighter than for training data, which its owner chose: anybody may send a video here."""
    return VideoLimits(
        max_pixels=4096 * 2304,
        max_frames=500_000,
        max_bytes=4 * 2**30,
        max_output_bytes=2**30,
        max_duration_s=12 * 3600,
    )


@dataclass(frozen=True, kw_only=True)
class ServingLimits:
    """Bytes, seconds and counts. What exceeds one of them is refused with words, never cut.

    A request with a body of 63 MiB took 235 MiB in the server (the body, its text, the video) until its video was
    written to disk; ``max_pending_body_bytes`` bounds the bodies that are held so at one time.
    """

    max_body_bytes: int = 64 * 2**20
    max_pending_body_bytes: int = 512 * 2**20
    max_upload_bytes: int = 512 * 2**20
    max_files: int = 1000
    max_files_bytes: int = 8 * 2**30  # of all uploads together
    max_store_bytes: int = 16 * 2**30  # uploads, and the videos of requests that are being answered
    max_header_bytes: int = 64 * 2**10
    max_json_marks: int = 65_536  # brackets and commas: 64 MiB of "[]," would become 1.4 GB of Python lists
    max_queue: int = 64  # questions in the engine, those being answered included
    max_connections: int = 256
    max_num_frames: int = 256
    max_prompt_chars: int = 16_000
    max_waiting_images: int = 8  # requests with image parts, which one process decodes one after the other
    decode_workers: int = 2
    visual_cache_bytes: int = 256 * 2**20  # visual tokens of videos: 64 KiB for 16 frames of checkpoints/tiny
    prefix_cache_bytes: int = 2**30  # what the decoder keeps of videos: 900 KiB for the same 16 frames
    max_redirects: int = 3
    file_expiry_s: float = 24 * 3600.0
    header_timeout_s: float = 10.0
    body_timeout_s: float = 120.0
    upload_timeout_s: float = 600.0
    fetch_timeout_s: float = 60.0
    answer_timeout_s: float = 600.0
    write_timeout_s: float = 30.0
    linger_s: float = 2.0  # after a refusal, for a client that is still sending and has not read the answer
    keep_alive_s: float = 5.0
    stop_timeout_s: float = 30.0  # from SIGTERM on, for the requests that are being answered then
    decode_timeout_s: float = 60.0
    decode_memory_bytes: int = 4 * 2**30  # of one decoder process, beyond its libraries
    video: VideoLimits = field(default_factory=served_video_limits)
