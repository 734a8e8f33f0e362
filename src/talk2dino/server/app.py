"""The ASGI application: routes, the layers around them, and the loading of the model."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from talk2dino.server.bounds import Bounds
from talk2dino.server.observe import Metrics, Observe
from talk2dino.server.options import ServeOptions
from talk2dino.server.problems import Problem, answer_with_problems
from talk2dino.server.routes import images, info, segment, words
from talk2dino.server.security import Guard
from talk2dino.server.state import State

if TYPE_CHECKING:
    from talk2dino.segmenter import Segmenter

log = logging.getLogger(__name__)
PAGE = Path(__file__).parent / "page"

_ABOUT = """Open-vocabulary segmentation: an image and words in, a label for every pixel out.

Errors are `application/problem+json` (RFC 9457). A service that was started with a token wants it in every request to
`/v1` and `/metrics`: `Authorization: Bearer TOKEN`. A full service answers 503 with `Retry-After`."""


def create_app(
    options: ServeOptions | None = None, segmenter: Segmenter | None = None, *, prefix: str = "",
    on_failure: Callable[[Exception], None] | None = None,
) -> FastAPI:  # fmt: skip
    """The service as an ASGI application.

    Args:
        segmenter: a loaded one; None: the model of the options is loaded in the background after the start.
        prefix: put before the ids of encoded images (the number of the worker process).
        on_failure: called when the model cannot be loaded.
    """
    from talk2dino import __version__

    options = options or ServeOptions()
    state = State(options, Metrics())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = None
        if segmenter is not None:
            _start(state, segmenter, prefix)
        else:
            loading = asyncio.ensure_future(_load(state, prefix, on_failure))
        try:
            yield
        finally:
            if loading is not None:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)
            service, state.service = state.service, None
            if service is not None:
                state.step = "stopping"
                await service.close()

    app = FastAPI(
        title="talk2dino", version=__version__, description=_ABOUT, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan,
        openapi_tags=[{"name": name} for name in ("segment", "encode once, ask often", "words", "about", "state")],
    )  # fmt: skip
    app.state.talk2dino = state
    answer_with_problems(app)
    for module in (segment, images, words, info):
        app.include_router(module.router)
    _add_page(app)
    app.add_middleware(Bounds, options=options)
    app.add_middleware(Guard, options=options)
    if options.cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.cors), allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "If-None-Match"],
            expose_headers=["ETag", "Location", "Retry-After"], max_age=3600,
        )  # fmt: skip
    app.add_middleware(Observe, options=options, metrics=state.metrics)
    return app


def _add_page(app: FastAPI) -> None:
    """The page and its files."""
    app.mount("/static", StaticFiles(directory=PAGE), name="static")

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        if not (PAGE / "index.html").is_file():
            raise Problem(404, "this installation has no page", hint="GET /docs lists the addresses")
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


def _start(state: State, segmenter: Segmenter, prefix: str) -> None:
    from talk2dino.server.service import Service

    state.service = Service(segmenter, state.options, state.metrics, prefix=prefix)
    state.step = "ready"
    log.info("ready: %s", segmenter)


async def _load(state: State, prefix: str, on_failure: Callable[[Exception], None] | None) -> None:
    """Load the model in a thread, step by step, while /health and /ready answer."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Segmenter] = loop.create_future()

    def say(step: str) -> None:
        state.step = step

    def settle(segmenter: Segmenter | None, error: Exception | None) -> None:
        if not done.done():
            done.set_exception(error) if segmenter is None else done.set_result(segmenter)  # type: ignore[arg-type]

    def load() -> None:
        try:
            say("importing libraries")
            from talk2dino.server.models import load_segmenter

            result: tuple[Segmenter | None, Exception | None] = (load_segmenter(state.options, say), None)
        except Exception as error:
            result = (None, error)
        with suppress(RuntimeError):  # the service was stopped in the meantime
            loop.call_soon_threadsafe(settle, *result)

    threading.Thread(target=load, name="load", daemon=True).start()
    try:
        _start(state, await done, prefix)
    except Exception as error:
        state.error, state.step = error, "loading the model failed"
        if on_failure is not None:
            on_failure(error)
