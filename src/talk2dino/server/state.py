"""What one service is at the moment: loading, ready or failed; and how a request works with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request

from talk2dino.server.observe import Metrics
from talk2dino.server.options import ServeOptions
from talk2dino.server.problems import ClientLeft, busy

if TYPE_CHECKING:
    from talk2dino.server.service import Service

T = TypeVar("T")


@dataclass
class State:
    """Shared by all routes as ``request.app.state.talk2dino``."""

    options: ServeOptions
    metrics: Metrics
    step: str = "starting"
    service: Service | None = None
    error: Exception | None = None


def state_of(request: Request) -> State:
    """The state of the application that a request came to."""
    state: State = request.app.state.talk2dino
    return state


def service_of(request: Request) -> Service:
    """The service; raises Problem (503) while the model is loading."""
    state = state_of(request)
    if state.service is None:
        raise busy(f"the model is not ready: {state.step}", 2, kind="loading")
    return state.service


async def while_connected(request: Request, work: Coroutine[None, None, T]) -> T:
    """The result of the work, which is cancelled when the client leaves or the time of a request is over.

    The body of the request must have been read.

    Raises:
        ClientLeft: the connection was closed. Problem: 503, not done in time.
    """
    seconds = state_of(request).options.request_seconds
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientLeft
        raise busy(f"the answer was not ready after {seconds:g} s", 5, kind="too-slow")
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
