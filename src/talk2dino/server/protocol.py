"""uvicorn's HTTP protocol with bounds that it lacks: time for the headers of a request, and connections.

What is refused here is answered with a problem document as well.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from talk2dino.server.options import ServeOptions
from talk2dino.server.problems import Problem, busy, problem_response


class BoundedProtocol(H11Protocol):
    """One connection. Subclasses set the options (:func:`protocol_class`)."""

    options: ServeOptions
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.options.max_connections:
            self._refuse(
                busy(f"{self.options.max_connections} connections are open already", kind="too-many-connections")
            )
        else:
            self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_next_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._watch_next_request()

    def _watch_next_request(self) -> None:
        unfinished, _ = self.conn.trailing_data
        if self._is_answering() or not unfinished:
            self._stop_waiting()
        elif self._timer is None:
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for bytes that are not HTTP, and for headers that are too long."""
        self._refuse(Problem(400, "the request is not valid HTTP/1.1, or its headers are too long", kind="not-http"))

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.options.header_seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if not self._is_answering() and not self.transport.is_closing():
            seconds = self.options.header_seconds
            self._refuse(Problem(408, f"no complete request came within {seconds:g} s", kind="slow-request"))

    def _refuse(self, problem: Problem) -> None:
        """Answer, and close the connection."""
        self._stop_waiting()
        answer = problem_response(problem)
        headers = [*answer.raw_headers, (b"connection", b"close")]
        reason = HTTPStatus(problem.status_code).phrase.encode()
        try:
            for event in (
                h11.Response(status_code=problem.status_code, headers=headers, reason=reason),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # an answer is under way already
            pass
        self.transport.close()


def protocol_class(options: ServeOptions) -> type[BoundedProtocol]:
    """The protocol of a service with these options."""
    return type("ServiceProtocol", (BoundedProtocol,), {"options": options})
