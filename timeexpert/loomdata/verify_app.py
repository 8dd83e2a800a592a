"""The page on which people verify masks: this machine alone, its own files alone, one small file per decision.

Requests pass the gate of :mod:`timeexpert.serving`: the Host header must name this machine, and a request that changes
something must come from the page itself. No part of a path that is asked for reaches the disk: pictures and files of
the page are looked up among the names that are there.
"""

from __future__ import annotations

import asyncio
import mimetypes
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from timeexpert.data.lock import locked
from timeexpert.data.records import SampleError, parse_json
from timeexpert.errors import UserError
from timeexpert.serving.gate import Gate, SafeHeaders
from timeexpert.serving.headers import PAGE_POLICY
from timeexpert.serving.limits import RequestError, ServingLimits
from timeexpert.serving.metrics import Metrics
from timeexpert.serving.settings import ServerSettings
from timeexpert.serving.wire import uvicorn_config

from .review import DECISIONS_OF, PICTURES, Review, ReviewError, decide, reviews
from .store import VIDEOS

PAGE = Path(__file__).parent / "page"
MAX_BODY_BYTES = 4096
FIELDS = ("video", "tracks", "round", "shot", "decision")


def create_app(out: Path, names: Collection[str] | None = None) -> FastAPI:
    """The ASGI application for the folder of an annotation; with ``names`` for the videos of these names alone.

    Raises ``UserError`` where nothing can be verified.
    """
    videos = out / VIDEOS
    if not any(True for _ in reviews(videos, names)):
        raise UserError(
            f"{out}: holds no masks to verify of these videos. Run timeexpert annotate VIDEOS -o {out} first: it makes "
            "them."
        )
    routes = _Routes(videos, names)
    app = FastAPI(title="Verify masks", docs_url=None, redoc_url=None, openapi_url=None)
    app.router.redirect_slashes = False
    for method, path, endpoint in (
        ("GET", "/", routes.page),
        ("GET", "/page/{name}", routes.page_file),
        ("GET", "/videos", routes.videos),
        ("GET", "/pictures/{key}/{name}", routes.picture),
        ("POST", "/decisions", routes.decide),
    ):
        app.router.add_route(path, endpoint, methods=[method])
    settings = ServerSettings(model="verify", frame_size=1)
    app.add_middleware(Gate, settings=settings, metrics=Metrics(dict), draining=lambda: False)
    app.add_middleware(SafeHeaders)
    return app


def serve(
    out: Path, port: int, *, names: Collection[str] | None = None, ready: Callable[[str], None] = lambda url: None
) -> None:
    """Answer at 127.0.0.1 until Ctrl-C. ``names``: see :func:`create_app`.

    Raises :class:`ReviewError` where another page is open on the same folder: each writes decisions as a whole.
    """
    from timeexpert.serving.run import listen, url_of  # which loads torch, and nothing else here does

    app = create_app(out, names)
    with locked(out / VIDEOS, "verification page", ReviewError), listen("127.0.0.1", port) as sock:
        server = uvicorn.Server(uvicorn_config(app, ServingLimits()))
        ready(url_of(sock))
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has stopped
            asyncio.run(server.serve([sock]))


class _Routes:
    def __init__(self, videos: Path, names: Collection[str] | None) -> None:
        self.folder, self.names = videos, names
        self._one_at_a_time = threading.Lock()

    async def page(self, _: Request) -> Response:
        return _page_file("index.html")

    async def page_file(self, request: Request) -> Response:
        return _page_file(request.path_params["name"])

    async def videos(self, _: Request) -> Response:
        return JSONResponse([_row(review) for review in reviews(self.folder, self.names)])

    async def picture(self, request: Request) -> Response:
        key, name = request.path_params["key"], request.path_params["name"]
        known = {path.name: path for path in self.folder.iterdir()}
        pictures = known[key] / PICTURES if key in known else None
        files = {path.name: path for path in pictures.iterdir()} if pictures is not None and pictures.is_dir() else {}
        if name not in files or files[name].suffix != ".jpg":
            raise RequestError("no such picture.", 404)
        return FileResponse(files[name], media_type="image/jpeg", headers={"Cache-Control": "no-cache"})

    async def decide(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise RequestError(f"a decision has at most {MAX_BODY_BYTES} bytes.", 413)
        row = _decision(body)
        with self._one_at_a_time:
            try:
                review = decide(self.folder, **row)
            except ReviewError as error:
                raise RequestError(str(error), 409) from None
        return JSONResponse(_row(review))


def _decision(body: bytes) -> dict[str, Any]:
    """The fields of a decision, of the right types."""
    try:
        row = parse_json(body.decode("utf-8"))
    except (UnicodeDecodeError, SampleError) as error:
        raise RequestError(f"a decision must be JSON: {error}", 400) from None
    if not isinstance(row, dict) or set(row) != set(FIELDS):
        raise RequestError(f"a decision is an object with {', '.join(FIELDS)}.", 400)
    if type(row["shot"]) is not int or type(row["round"]) is not int or row["round"] not in DECISIONS_OF:
        raise RequestError("round must be 1 or 2, and shot a number.", 400)
    texts = [row["video"], row["tracks"], *([] if row["decision"] is None else [row["decision"]])]
    if not all(isinstance(text, str) for text in texts):
        raise RequestError("video, tracks and decision must be texts; decision may be null.", 400)
    return {"key": row.pop("video"), **row}


def _row(review: Review) -> dict[str, Any]:
    """A video as the page gets it; ``items`` of both rounds, those of round 2 once round 1 is passed."""
    return {
        "key": review.key,
        "video": review.video,
        "tracks": review.tracks,
        "description": review.description,
        "shots": len(review.shots),
        "state": review.state_after(2),
        "items": [
            {
                "round": number,
                "shot": item.shot,
                "start_s": item.start_s,
                "end_s": item.end_s,
                "decision": item.decision,
            }
            for number in (1, 2)
            for item in review.items(number)
        ],
    }


def _page_file(name: str) -> Response:
    known = {path.name: path for path in PAGE.glob("*.*")}
    if name not in known:
        raise RequestError("no such file of the page.", 404)
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": PAGE_POLICY}
    return FileResponse(known[name], media_type=mimetypes.guess_type(name)[0], headers=headers)
