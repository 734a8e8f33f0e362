"""Metrics for Prometheus, and one line of log per request. Neither holds images; words only with ``--log-prompts``."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from talk2dino.server.options import ServeOptions
from talk2dino.server.problems import problem_of, problem_response
from talk2dino.server.security import with_headers

log = logging.getLogger(__name__)
_METHODS = ("GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT", "PATCH")
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The numbers of one service; each has its own registry, so that two can live in one process."""

    def __init__(self) -> None:
        self.several = "PROMETHEUS_MULTIPROC_DIR" in os.environ  # several worker processes share their counters
        self.registry = CollectorRegistry()
        registry = None if self.several else self.registry
        self.requests = Counter(
            "talk2dino_requests", "Requests by route and status.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "talk2dino_request_seconds", "Time per request.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.batches = Histogram(
            "talk2dino_batch_images", "Images per forward pass.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.forward = Histogram(
            "talk2dino_forward_seconds", "Time per forward pass.", buckets=_SECONDS, registry=registry
        )
        self.dropped = Counter(
            "talk2dino_dropped", "Requests whose client left before they were computed.", registry=registry
        )
        self.waiting = Gauge(
            "talk2dino_active_requests", "Requests that are worked on or wait.", registry=registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.sessions = Gauge(
            "talk2dino_sessions", "Encoded images that are kept.", registry=registry, multiprocess_mode="livesum"
        )
        self.session_bytes = Gauge(
            "talk2dino_session_bytes", "Memory of the encoded images.", registry=registry, multiprocess_mode="livesum"
        )
        if not self.several:
            ProcessCollector(registry=self.registry)

    def text(self) -> bytes:
        """The document of ``GET /metrics``."""
        if self.several:
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = CollectorRegistry()
            MultiProcessCollector(registry)
            return generate_latest(registry)
        return generate_latest(self.registry)


class Observe:
    """The outermost ASGI middleware: headers of every answer, metrics, the log, and what no other layer caught."""

    def __init__(
        self, app: ASGIApp, options: ServeOptions, metrics: Metrics, clock: Callable[[], float] = time.perf_counter
    ):
        self.app, self.options, self.metrics, self.clock = app, options, metrics, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = self.clock(), 0
        caching = "no-cache" if scope["path"].startswith("/static/") else "no-store"
        answer = with_headers(send, bool(self.options.cors), caching)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await answer(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            log.error("%s %s failed: %s", scope["method"], _route(scope), _where(error))
            if not status:
                await problem_response(problem_of(error))(scope, receive, watched)
        finally:
            self._record(scope, status, self.clock() - start)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"  # clients can invent methods without end
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        words = scope.get("state", {}).get("prompts") if self.options.log_prompts else None
        log.info("%s %s %d %.0f ms%s", scope["method"], route, status, 1000 * seconds, f" {words}" if words else "")


def _route(scope: Scope) -> str:
    """The address without what only this client knows: the id of an encoded image opens it."""
    route = scope.get("route")
    return getattr(route, "path", None) or "other"


def _where(error: Exception) -> str:
    """What failed and where, without the message, which could hold words of a client."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " <- ".join(f"{os.path.basename(f.filename)}:{f.lineno}" for f in reversed(frames[-4:]))
    return f"{type(error).__name__} at {places}"
