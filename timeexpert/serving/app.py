"""The application: paths and what answers them (see docs/serving.md)."""

from __future__ import annotations

import asyncio
import mimetypes
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from . import metrics
from .body import announced_length, read_upload
from .engine import Engine
from .fetch import Fetcher
from .gate import Gate, SafeHeaders
from .headers import MEDIA_POLICY, PAGE_POLICY
from .limits import RequestError, stopping
from .samples import TYPES
from .schema import document
from .service import Service
from .settings import ServerSettings

PAGE = Path(__file__).parent / "page"
FORM_BYTES = 64 * 2**10  # what a form adds to its file
CHUNK = 2**20


def create_app(engine: Engine, settings: ServerSettings, *, fetcher: Fetcher | None = None) -> FastAPI:
    """The ASGI application around ``engine``, which the caller opens and closes. Raises ``UserError``.

    ``fetcher`` replaces how http(s) videos are fetched. ``app.state.service`` is the :class:`Service`.
    """
    service = Service(engine, settings, fetcher)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        expiring = asyncio.create_task(service.expire_files())
        try:
            yield
        finally:
            expiring.cancel()
            service.close()

    app = FastAPI(title="TimeExpert", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.service = service
    app.router.redirect_slashes = False
    _add_routes(app, _Routes(service))
    app.add_exception_handler(HTTPException, _refuse)
    app.add_middleware(Gate, settings=settings, metrics=service.metrics, draining=lambda: service.draining)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    app.add_middleware(SafeHeaders)  # the last one added is the outermost
    return app


def _add_routes(app: FastAPI, routes: _Routes) -> None:
    for method, path, endpoint in (
        ("POST", "/v1/chat/completions", routes.chat),
        ("GET", "/v1/models", routes.models),
        ("POST", "/v1/files", routes.upload),
        ("GET", "/v1/files", routes.files),
        ("GET", "/v1/files/{file_id}", routes.file),
        ("DELETE", "/v1/files/{file_id}", routes.delete),
        ("GET", "/v1/files/{file_id}/content", routes.file_content),
        ("GET", "/samples", routes.samples),
        ("GET", "/samples/{sample_id}/content", routes.sample_content),
        ("GET", "/healthz", routes.health),
        ("GET", "/readyz", routes.ready),
        ("GET", "/metrics", routes.metrics),
        ("GET", "/openapi.json", routes.openapi),
        ("GET", "/", routes.page),
        ("GET", "/page/{name}", routes.page_file),
    ):
        app.router.add_route(path, endpoint, methods=[method])
        routes.service.metrics.paths[endpoint] = path


async def _refuse(request: Request, error: Exception) -> Response:
    """What no route takes, or what a form lacks, in the shape of all errors."""
    assert isinstance(error, HTTPException)
    if error.status_code not in (404, 405):
        raise RequestError(str(error.detail), error.status_code)
    words = f"nothing is served at this path: {request.method[:20]} {ascii(request.url.path)[1:81]}."
    if error.status_code == 405:
        here = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
        methods = ", ".join(sorted({method for route in here for method in route.methods}))
        words = f"this path takes {methods}, not {request.method[:20]}."
        raise RequestError(words, 405, headers={"Allow": methods})
    raise RequestError(words, error.status_code)


class _Routes:
    """One method per path."""

    def __init__(self, service: Service) -> None:
        self.service, self.settings = service, service.settings
        self.started = int(time.time())

    async def chat(self, request: Request) -> Response:
        return await self.service.chat(request)

    async def models(self, _: Request) -> Response:
        row: dict[str, Any] = {"id": self.settings.model, "object": "model", "created": self.started}
        row |= {"owned_by": "timeexpert", "draws_masks": self.settings.draws_masks}
        return JSONResponse({"object": "list", "data": [row]})

    async def upload(self, request: Request) -> Response:
        limits, service = self.service.limits, self.service
        length = announced_length(request, limits.max_upload_bytes + FORM_BYTES, "--max-upload-mb")
        with service.pending_uploads.hold(length):
            file, purpose = await read_upload(request, limits)
            try:
                added = await service.run(service.uploads.add, _chunks(file.file), file.filename or "", purpose)
            finally:
                await file.close()
        return JSONResponse(added.to_json())

    async def files(self, _: Request) -> Response:
        rows = [file.to_json() for file in self.service.uploads.list()]
        return JSONResponse({"object": "list", "data": rows, "has_more": False})

    async def file(self, request: Request) -> Response:
        return JSONResponse(self.service.uploads.get(request.path_params["file_id"]).to_json())

    async def delete(self, request: Request) -> Response:
        file_id = request.path_params["file_id"]
        self.service.uploads.delete(file_id)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    async def file_content(self, request: Request) -> Response:
        file = self.service.uploads.lease(request.path_params["file_id"])
        return _Video(file.blob.path, file.filename, lambda: self.service.store.release(file.blob))

    async def samples(self, _: Request) -> Response:
        return JSONResponse([sample.to_json() for sample in self.service.samples.values()])

    async def sample_content(self, request: Request) -> Response:
        sample = self.service.samples.get(request.path_params["sample_id"])
        if sample is None or not sample.is_there():
            raise RequestError("no such sample; GET /samples lists them.", 404)
        return _Video(sample.path, f"{sample.name}{sample.path.suffix}")

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        if self.service.draining:
            raise stopping()
        return JSONResponse({"status": "ready", "model": self.settings.model})

    async def metrics(self, _: Request) -> Response:
        return Response(self.service.metrics.render(), media_type=metrics.CONTENT_TYPE)

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(document(self.settings))

    async def page(self, _: Request) -> Response:
        return _page_file("index.html")

    async def page_file(self, request: Request) -> Response:
        return _page_file(request.path_params["name"])


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(CHUNK):
        yield chunk


class _Video(FileResponse):
    """A video for a player: ranges are honoured, and whatever is in it, a browser takes it for nothing else."""

    def __init__(self, path: Path, name: str, release: Callable[[], None] = lambda: None) -> None:
        headers = {
            "Content-Disposition": f"inline; filename*=UTF-8''{quote(name, safe='')}",
            "Content-Security-Policy": MEDIA_POLICY,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "private, max-age=0",
        }
        kind = TYPES.get(Path(name).suffix.lower(), "application/octet-stream")
        super().__init__(path, media_type=kind, headers=headers)
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_our_errors(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                words = f"Range must be one like bytes=0-1023 within the file's {self.path_size()} bytes."
                size = {"Content-Range": f"bytes */{self.path_size()}"}
                raise RequestError(words, message["status"], headers=size)
            await send(message)

        try:
            await super().__call__(scope, receive, send_our_errors)
        finally:
            self._release()

    def path_size(self) -> int:
        """Bytes of the whole file."""
        return Path(self.path).stat().st_size


def _page_file(name: str) -> Response:
    known: dict[str, Path] = {path.name: path for path in PAGE.glob("*.*")} if PAGE.is_dir() else {}
    if name not in known:
        raise RequestError("no such file of the page.", 404)
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": PAGE_POLICY}
    return FileResponse(known[name], media_type=mimetypes.guess_type(name)[0], headers=headers)
