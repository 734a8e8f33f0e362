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
from talk2dino.server.forward import UPLOAD, Forward, Worker
from talk2dino.server.observe import Metrics, Observe
from talk2dino.server.options import ServeOptions
from talk2dino.server.problems import Problem, answer_with_problems
from talk2dino.server.routes import api_docs, images, info, label_studio, segment, words, x_anylabeling
from talk2dino.server.security import Guard
from talk2dino.server.state import State, service_of

if TYPE_CHECKING:
    from talk2dino.segmenter import Segmenter

log = logging.getLogger(__name__)
TAGS = ("segment", "encode once, ask often", "words", "about", "state", "X-AnyLabeling", "Label Studio")
PAGE = Path(__file__).parent / "page"

_LOADING = "talk2dino-loading"  # a thread

_ABOUT = """Open-vocabulary segmentation: an image and words in, a label for every pixel out.

Errors are `application/problem+json` (RFC 9457). A service that was started with a token wants it in every request to
`/v1` and `/metrics`: `Authorization: Bearer TOKEN`. A full service answers 503 with `Retry-After`."""


def create_app(
    options: ServeOptions | None = None, segmenter: Segmenter | None = None, *, worker: Worker | None = None,
    on_ready: Callable[[], None] | None = None, on_failure: Callable[[Exception], None] | None = None,
) -> FastAPI:  # fmt: skip
    """The service as an ASGI application.

    Args:
        segmenter: a loaded one; None: the model of the options is loaded in the background after the start.
        worker: which of several worker processes this is.
        on_ready, on_failure: called when the model is loaded, or cannot be loaded.
    """
    from talk2dino import __version__

    options = options or ServeOptions()
    state = State(options, Metrics())

    def start(loaded: Segmenter) -> None:
        from talk2dino.server.service import Service

        state.service = Service(loaded, options, state.metrics, worker=worker)
        state.step = "ready"
        dtype = str(loaded.dtype).removeprefix("torch.")
        log.info("ready: %s with %s, %s on %s", loaded.method.name, loaded.name, dtype, loaded.device)
        if on_ready is not None:
            on_ready()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = None
        if segmenter is not None:
            start(segmenter)
        else:
            loading = asyncio.ensure_future(_load(state, start, on_failure))
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
        openapi_tags=[{"name": name} for name in TAGS],
    )  # fmt: skip
    app.state.talk2dino = state
    answer_with_problems(app)
    for module in (segment, images, words, info, x_anylabeling, label_studio, api_docs):
        app.include_router(module.router)
    _add_page(app)
    if worker is not None:
        _add_upload(app)
        app.add_middleware(Forward, worker=worker)
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


def is_loading() -> bool:
    """Whether a model is still being loaded, also after its service has stopped."""
    return any(thread.name == _LOADING for thread in threading.enumerate())


def _add_upload(app: FastAPI) -> None:
    """The file of an encoded image, for the other workers."""

    @app.get(UPLOAD + "{id}", include_in_schema=False)
    async def upload(request: Request, id: str) -> Response:
        if request.scope["server"][1] is not None:  # not a Unix socket
            raise Problem(404, "there is nothing at this address")
        return Response(service_of(request).sessions.get(id).upload)


async def _load(
    state: State, start: Callable[[Segmenter], None], on_failure: Callable[[Exception], None] | None
) -> None:
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

    threading.Thread(target=load, name=_LOADING, daemon=True).start()
    try:
        start(await done)
    except Exception as error:
        state.error, state.step = error, "loading the model failed"
        if on_failure is not None:
            on_failure(error)
