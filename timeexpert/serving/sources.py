"""The video that a request refers to: data:, file://, http(s)://, an upload or a sample, as a file with its SHA-256.

A file must lie inside the one allowed folder after percent-decoding and after resolving links, and is then opened
without following any. No message says more about the machine than the request did.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from .engine import Video
from .fetch import Fetcher
from .limits import RequestError
from .opened import Identity, open_without_links
from .samples import Sample
from .settings import ServerSettings
from .store import Blob, Store, Uploads

NAME = "video_url"
DATA_HEAD = re.compile(r"data:video/([a-z0-9.+-]{1,40});base64", re.IGNORECASE)
MAX_HASHES = 4096


@dataclass(frozen=True)
class Lease:
    """A video that stays readable until ``release()``, which is called once."""

    video: Video
    release: Callable[[], None]


class Sources:
    """Opens what ``url`` of a ``video_url`` part says. Thread-safe; blocks on disk and network."""

    def __init__(
        self,
        settings: ServerSettings,
        store: Store,
        uploads: Uploads,
        samples: dict[str, Sample],
        fetcher: Fetcher | None = None,
    ) -> None:
        self.settings, self.store, self.uploads, self.samples = settings, store, uploads, samples
        limits = settings.limits
        self.fetcher = fetcher or Fetcher(settings.allowed_domains, limits, limits.max_upload_bytes)
        self._hashes = _Hashes()

    def lease(self, url: str) -> Lease:
        """The video at ``url``. Raises :class:`RequestError`."""
        scheme = url[:20].partition(":")[0].lower()
        if scheme == "data":
            return self._kept(self.store.write([data_bytes(url)]))
        if scheme == "file":
            with allowed_file(url, self.settings.allowed_folder) as (path, file):
                video = Video(path, *self._hashes.of(file, self.settings.limits.video.max_bytes))
            return Lease(video, lambda: None)
        if scheme in ("http", "https"):
            return self._fetched(url)
        if url.startswith("file-"):
            return self._kept(self.uploads.lease(url).blob)
        if url in self.samples:
            sample = self.samples[url]
            return Lease(Video(sample.path, sample.sha256, sample.identity), lambda: None)
        if url.startswith("sample-"):
            raise RequestError(f"{NAME}: no such sample; GET /samples lists them.", 404)
        raise RequestError(
            f"{NAME} ({url[:40]!r}) must begin with data:video/mp4;base64, or file://, http:// or https://, or be "
            "the id of an upload (file-...) or of a sample (sample-...)."
        )

    def _kept(self, blob: Blob) -> Lease:
        return Lease(Video(blob.path, blob.sha256), lambda: self.store.release(blob))

    def _fetched(self, url: str) -> Lease:
        if not self.settings.allowed_domains:
            raise RequestError(
                f"{NAME}: http and https addresses are not fetched: this server opens no connections. Whoever runs it "
                "can allow hosts with --allowed-media-domains; or send the video itself as data:video/mp4;base64,..."
            )
        blob = self.store.write(self.fetcher.chunks(url))
        if not blob.size:
            self.store.release(blob)
            raise RequestError(f"{NAME}: the video is empty (0 bytes).")
        return self._kept(blob)


def data_bytes(url: str) -> bytes:
    """The bytes of a ``data:video/...;base64,`` URL. Raises :class:`RequestError`."""
    head, comma, payload = url.partition(",")
    match = DATA_HEAD.fullmatch(head)
    if not match or not comma:
        raise RequestError(f"{NAME} ({head[:80]!r}) must begin with data:video/mp4;base64, (or another video type).")
    if match[1].lower() in ("jpeg", "jpg", "png"):
        raise RequestError(
            f"{NAME}: {head} holds frames without their times, so nobody could say when. Send the video."
        )
    return decoded_base64(payload, NAME, "video")


def decoded_base64(payload: str, name: str, what: str) -> bytes:
    """Strict base64. Raises :class:`RequestError`; also where nothing is in it."""
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(
            f"{name}: not base64: {error}. Use the standard alphabet with padding and no line breaks (base64 -w0)."
        ) from None
    if not data:
        raise RequestError(f"{name}: the {what} is empty (0 bytes).")
    return data


@contextmanager
def allowed_file(url: str, allowed_folder: Path | None) -> Iterator[tuple[Path, io.BufferedReader]]:
    """The regular file that a ``file://`` URL names inside the allowed folder: its path without links, and it, open.

    Nothing outside is opened, whatever is swapped meanwhile. Raises :class:`RequestError`.
    """
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
        file = open_without_links(path) if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # absent or forbidden; NUL or bad UTF-8; a loop of links
        raise refused from None
    if file is None:
        raise refused
    with file:
        yield path, file


class _Hashes:
    """SHA-256 of files, computed again only where a file changed. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[Identity, str] = {}
        self._lock = threading.Lock()

    def of(self, file: io.BufferedReader, max_bytes: int) -> tuple[str, Identity]:
        """The checksum of an open file, and which file it is. Raises :class:`RequestError`."""
        try:
            identity = Identity.of(file)
            if identity.size > max_bytes:
                raise RequestError(f"{NAME}: {identity.size} bytes are more than max_bytes ({max_bytes}).")
            with self._lock:
                if identity in self._known:
                    return self._known[identity], identity
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if Identity.of(file) != identity:
                raise RequestError(f"{NAME}: the file is being written. Ask again when it is done.")
        except OSError:  # its text holds the path
            raise RequestError(f"{NAME}: cannot be read.") from None
        with self._lock:
            if len(self._known) >= MAX_HASHES:
                self._known.pop(next(iter(self._known)))
            self._known[identity] = digest
        return digest, identity
