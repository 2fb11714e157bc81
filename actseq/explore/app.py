"""The HTTP side of the page: routes, and every error as one sentence in JSON. What is done, `Studio` does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from actseq.audio import as_flac
from actseq.errors import ActseqError
from actseq.explore import orders
from actseq.explore.catalog import HEARD_SECONDS
from actseq.explore.guard import LOOPBACK, Guard
from actseq.explore.jobs import FAILED, Job, Jobs
from actseq.explore.studio import Studio, Work
from actseq.pages.rendering import render
from actseq.pages.sounds import spectrogram_png

STATIC = {"explore.css": "text/css", "explore.js": "text/javascript", "map.js": "text/javascript"}
STATIC |= {"server.js": "text/javascript", "sound.js": "text/javascript"}
"""Files that the page loads, with their types."""


def explore_app(studio: Studio, address: str, port: int, token: str) -> Guard:
    """The application, behind its guard.

    Args:
        studio: what it does.
        address: address that the server listens on.
        port: port of the server.
        token: what the page must know to change something. On this machine the page holds it; elsewhere it is in the
            address that the user opens, behind `#`, which browsers do not send.
    """
    private = f"[{address}]" not in LOOPBACK and address not in LOOPBACK
    names = LOOPBACK if not private else (*LOOPBACK, f"[{address}]" if ":" in address else address)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_errors(app)
    _add_page(app, studio, None if private else token)
    _add_sounds(app, studio, jobs := Jobs())
    _add_work(app, studio, jobs)
    return Guard(app, names, port, token, private=private)


def _add_page(app: FastAPI, studio: Studio, token: str | None) -> None:
    page = render("explore.html", "actseq.explore", run=studio.loaded.run.name if token else None, token=token or "")
    policy = {"content-security-policy": _policy(page)}

    @app.get("/")
    def index() -> HTMLResponse:
        return HTMLResponse(page, headers=policy)

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in STATIC:
            raise HTTPException(404)
        return Response(files(__package__).joinpath("static", name).read_bytes(), media_type=STATIC[name])

    @app.get("/api/run")
    def run() -> dict[str, Any]:
        return studio.described()


def _add_sounds(app: FastAPI, studio: Studio, jobs: Jobs) -> None:
    """What is heard and seen, and what comes and goes."""

    @app.get("/api/clips/{clip_id}")
    async def clip(clip_id: str) -> Response:
        waveform = studio.catalog.waveform(studio.catalog.clip(clip_id), HEARD_SECONDS)
        return Response(as_flac(waveform, studio.sample_rate), media_type="audio/flac")

    @app.get("/api/sounds/{sound_id}")
    async def sound(sound_id: str) -> Response:
        return Response(as_flac(studio.shelf.get(sound_id).waveform, studio.sample_rate), media_type="audio/flac")

    @app.get("/api/pictures/{sound_id}")
    async def picture(sound_id: str) -> Response:
        waveform = studio.shelf.get(sound_id).waveform
        return Response(spectrogram_png(waveform, studio.sample_rate), media_type="image/png")

    @app.post("/api/sounds")
    async def receive(request: Request) -> dict[str, Any]:
        content, name = await request.body(), unquote(request.headers.get("x-file-name", ""))
        return await jobs.compute(lambda: studio.receive(name, content))

    @app.post("/api/keep")
    async def keep(order: orders.Keep) -> dict[str, Any]:
        return await jobs.compute(lambda: studio.keep(order))


def _add_work(app: FastAPI, studio: Studio, jobs: Jobs) -> None:
    """What makes sound: answered by one JSON object a line, as it grows."""

    def started(work: Work) -> StreamingResponse:
        return StreamingResponse(_lines(jobs.begin(work)), media_type="application/x-ndjson")

    @app.post("/api/generate")
    async def generate(order: orders.NewClip) -> StreamingResponse:
        return started(studio.generate(order))

    @app.post("/api/path")
    async def path(order: orders.AlongPath) -> StreamingResponse:
        return started(studio.along(order))

    @app.post("/api/through")
    async def through(order: orders.ThroughSounds) -> StreamingResponse:
        return started(studio.through(order))

    @app.post("/api/effects")
    async def affect(order: orders.WithEffects) -> StreamingResponse:
        return started(studio.affect(order))

    @app.post("/api/cancel")
    async def cancel() -> dict[str, bool]:
        return {"cancelled": await jobs.cancel()}


async def _lines(job: Job) -> AsyncIterator[bytes]:
    async for message in job.messages():
        yield json.dumps(message).encode() + b"\n"


def _policy(page: str) -> str:
    """What the page may load: its own files, and the scripts and styles inside it, by their hashes."""

    def inside(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.S)
        hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
        return " ".join(["'self'", *(f"'sha256-{one}'" for one in hashes)])

    parts = [
        "default-src 'none'",
        f"script-src {inside('script')}",
        f"style-src {inside('style')}",
        "connect-src 'self'",
        "img-src 'self' blob: data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return "; ".join(parts)


def _add_errors(app: FastAPI) -> None:
    def answer(status: int, reason: str) -> JSONResponse:
        return JSONResponse({"error": reason}, status)

    @app.exception_handler(ActseqError)
    async def refused(request: Request, error: ActseqError) -> JSONResponse:
        return answer(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return answer(422, f"{where or 'the request'}: {first['msg'][:1].lower()}{first['msg'][1:]}")

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        reasons = {404: "there is nothing at this address", 405: "this address does not do that"}
        return answer(error.status_code, reasons.get(error.status_code, str(error.detail)))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return answer(500, FAILED)
