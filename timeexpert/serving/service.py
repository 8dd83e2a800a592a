"""What the routes share: disk, uploads, samples, threads; and a question's way from its body to its reply."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from .answers import Chunks, completion
from .api import Asked, TimedImages, read_body, read_question
from .body import ByteBudget, announced_length, check_type, read_json_bytes
from .engine import Engine, Question, Reply, Ticket
from .fetch import Fetcher
from .frames import ImageDecoder
from .gate import LOG, ClientLeft
from .limits import RequestError
from .metrics import Metrics
from .samples import read_samples
from .settings import ServerSettings
from .sources import Sources
from .store import Store, Uploads

T = TypeVar("T")
EXPIRE_EVERY_S = 60.0


class Service:
    """Owns a private folder and threads until ``close()``; the engine is the caller's."""

    def __init__(self, engine: Engine, settings: ServerSettings, fetcher: Fetcher | None = None) -> None:
        self.engine, self.settings, self.limits = engine, settings, settings.limits
        self.samples = read_samples(settings.samples)
        self._folder = tempfile.TemporaryDirectory(
            prefix="timeexpert-serve-", ignore_cleanup_errors=True
        )  # readable by this user alone
        self.store = Store(Path(self._folder.name), self.limits.max_store_bytes)
        self.uploads = Uploads(self.store, self.limits)
        self.sources = Sources(settings, self.store, self.uploads, self.samples, fetcher)
        self.images = ImageDecoder(settings.frame_size, self.limits)
        self.metrics = Metrics(self._stats)
        self.bodies = ByteBudget(self.limits.max_pending_body_bytes)
        self.pending_uploads = ByteBudget(self.limits.max_files_bytes)
        self.draining = False  # once True, only probes are answered, and what was asked before
        # every open connection may wait for one answer
        self._threads = ThreadPoolExecutor(self.limits.max_connections, "request")

    def _stats(self) -> dict[str, dict[str, Any]]:
        uploads = self.uploads.list()
        disk = {"bytes": self.store.used_bytes, "uploads": len(uploads)}
        return {"store": {**disk, "upload_bytes": sum(f.blob.size for f in uploads)}, "engine": self.engine.stats()}

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """``function(*args)`` in a thread, for what blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def expire_files(self) -> None:
        """Uploads go when their time has come, also where nobody asks."""
        while True:
            await asyncio.sleep(EXPIRE_EVERY_S)
            self.uploads.list()

    def close(self) -> None:
        """Ends threads and removes the folder."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.images.__exit__(None, None, None)
        self.remove_files()

    def remove_files(self) -> None:
        """The folder with all videos goes."""
        self._folder.cleanup()

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        length = announced_length(request, self.limits.max_body_bytes, "--max-body-mb")
        check_type(request, "application/json")
        with self.bodies.hold(length):
            body = await read_json_bytes(request, self.limits.body_timeout_s)
            asking, ticket = await self.run(self._hand_in, body)
            del body
        try:
            if not asking.asked.stream:
                reply = await self._or_leave(request, self.run(ticket.result, self.limits.answer_timeout_s))
                return JSONResponse(completion(reply, self.settings.model))
            pieces = ticket.events()
            # the status is told with the first piece: until then a refusal can be one
            first = await self._or_leave(request, self.run(next, pieces, None))
            if first is None:
                await self.run(ticket.result, self.limits.answer_timeout_s)
        except TimeoutError:
            asking.close()
            raise self._late() from None
        except BaseException:
            asking.close()
            raise
        finally:
            if not asking.asked.stream:
                asking.close()
        return _Stream(self._stream(asking, ticket, first, pieces), asking.close)

    def _hand_in(self, body: bytes) -> tuple[_Asking, Ticket]:
        """Parse the body, put its video on disk and hand the question to the engine: one change of threads for all."""
        asking = self._open(body)
        try:
            asking.ticket = self.engine.submit(asking.question)
        except BaseException:
            asking.close()
            raise
        return asking, asking.ticket

    def _open(self, body: bytes) -> _Asking:
        asked = read_question(read_body(body, self.limits), self.settings.model, self.limits)
        if isinstance(asked.media, TimedImages):
            return _Asking(asked, self.images(asked.media.images, asked.media.times_s), lambda: None)
        lease = self.sources.lease(asked.media)
        return _Asking(asked, lease.video, lease.release)

    async def _stream(self, asking: _Asking, ticket: Ticket, first: str | None, pieces: Any) -> AsyncIterator[bytes]:
        chunks = Chunks(self.settings.model, usage=asking.asked.stream_usage)
        try:
            async with asyncio.timeout(self.limits.answer_timeout_s):
                yield chunks.text(first or "", first=True)
                while first is not None and (piece := await self.run(next, pieces, None)) is not None:
                    yield chunks.text(piece)
                reply: Reply = await self.run(ticket.result, self.limits.answer_timeout_s)
                yield chunks.last(reply)
        except TimeoutError:
            error = self._late()
            yield chunks.error(str(error), error.kind)
        except RequestError as error:
            yield chunks.error(str(error), error.kind)
        except Exception:
            LOG.exception("a streamed answer failed")
            yield chunks.error("the server failed; its log says why.", "server_error")

    def _late(self) -> RequestError:
        words = f"no answer within {self.limits.answer_timeout_s:g} s; ask for fewer frames, or later."
        return RequestError(words, 503, "overloaded_error", {"Retry-After": "10"})

    async def _or_leave(self, request: Request, work: Any) -> Any:
        """What ``work`` gives. Raises :class:`ClientLeft` as soon as the client goes away, ``TimeoutError``."""
        working, leaving = asyncio.ensure_future(work), asyncio.create_task(_left(request))
        try:
            await asyncio.wait(
                {working, leaving}, timeout=self.limits.answer_timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if working.done():
                return working.result()
            working.add_done_callback(_ignored)  # cancelling the ticket ends it; nobody reads how
            if leaving.done():
                raise ClientLeft
            raise TimeoutError
        finally:
            leaving.cancel()
            with suppress(asyncio.CancelledError):
                await leaving


class _Asking:
    """One question with what it holds; ``close()`` gives all of it back, once."""

    def __init__(self, asked: Asked, media: Any, release: Callable[[], None]) -> None:
        self.asked, self._release, self._closed = asked, release, False
        limits = asked.num_frames, asked.max_tokens
        self.question = Question(media, asked.prompt, asked.task, *limits, asked.experts, asked.tracks)
        self.ticket: Ticket | None = None

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self.ticket is not None:
                self.ticket.cancel()  # changes nothing once it is answered
            self._release()


class _Stream(StreamingResponse):
    """Server-sent events; ``close`` is called at the end, also where the client left before the beginning."""

    def __init__(self, content: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        super().__init__(content, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.headers["Content-Type"] = "text/event-stream"
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _ignored(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()
