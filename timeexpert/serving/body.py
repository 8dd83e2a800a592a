"""Bodies of requests: their size is known before they are read, and reading them ends in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import UploadFile
from starlette.requests import Request

from .limits import RequestError, ServingLimits


class ByteBudget:
    """How many bytes of bodies may be held at one time. Used by one thread, the event loop's."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.used_bytes = max_bytes, 0

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Raises :class:`RequestError` 429 where there is no room."""
        if self.used_bytes and self.used_bytes + size > self.max_bytes:
            raise RequestError(
                "too many large requests are being read; try again soon.", 429, "overloaded_error", {"Retry-After": "1"}
            )
        self.used_bytes += size
        try:
            yield
        finally:
            self.used_bytes -= size


def announced_length(request: Request, max_bytes: int, flag: str) -> int:
    """The body's size in bytes as its header says. Raises :class:`RequestError`."""
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RequestError("send the body as it is: compressed bodies (Content-Encoding) are not unpacked.", 415)
    lengths = set(request.headers.getlist("content-length"))
    if "transfer-encoding" in request.headers or not lengths:
        raise RequestError("send the body with one Content-Length, not in chunks.", 411)
    length = lengths.pop().strip()
    if lengths or not (length.isascii() and length.isdigit()):
        raise RequestError("Content-Length must be one whole number of bytes.")
    if len(length) > 18 or int(length) > max_bytes:
        raise RequestError(
            f"the body has {length[:19]} bytes; at most {max_bytes} are read ({flag}). Send a shorter or smaller "
            "video.",
            413,
        )
    return int(length)


def check_type(request: Request, wanted: str) -> None:
    """Raises :class:`RequestError` 415: other types can be sent from any web page."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != wanted:
        raise RequestError(f"Content-Type must be {wanted}.", 415)


async def read_json_bytes(request: Request, timeout_s: float) -> bytes:
    """A body whose length and type were checked. Raises :class:`RequestError`, ``ClientDisconnect``."""
    try:
        async with asyncio.timeout(timeout_s):
            return await request.body()
    except TimeoutError:
        raise _late(timeout_s) from None


async def read_upload(request: Request, limits: ServingLimits) -> tuple[UploadFile, str]:
    """(file, purpose) of a multipart upload; the file is on disk where it is large, and is to be closed."""
    check_type(request, "multipart/form-data")
    try:
        async with asyncio.timeout(limits.upload_timeout_s):
            form = await request.form(max_files=1, max_fields=4, max_part_size=4096)
    except TimeoutError:
        raise _late(limits.upload_timeout_s) from None
    except (ValueError, LookupError):  # its charset cannot be used
        raise RequestError("the form cannot be read; leave its charset out, or say utf-8.") from None
    file, purpose = form.get("file"), form.get("purpose", "user_data")
    unknown = sorted(set(form) - {"file", "purpose"})
    if unknown or not isinstance(file, UploadFile) or not isinstance(purpose, str):
        await form.close()
        wrong = f"unknown field {unknown[0][:60]!r}; " if unknown else ""
        raise RequestError(f"{wrong}the form must have one file in the field 'file', and may have 'purpose'.")
    return file, purpose[:64]


def _late(timeout_s: float) -> RequestError:
    return RequestError(f"the body did not arrive within {timeout_s:g} s.", 408, headers={"Connection": "close"})
