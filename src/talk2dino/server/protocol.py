"""uvicorn's HTTP protocol with bounds that it lacks: time for the headers of a request and for reading an answer, connections.

What is refused here is answered with a problem document as well.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from talk2dino.server.options import ServeOptions
from talk2dino.server.problems import Problem, busy, problem_response

#: Time for the rest of a body after its answer.
REST_SECONDS = 1.0


class BoundedProtocol(H11Protocol):
    """One connection. Subclasses set the options (:func:`protocol_class`)."""

    options: ServeOptions
    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _unread, _unread_since = 0, 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.options.max_connections:
            self._refuse(
                busy(f"{self.options.max_connections} connections are open already", kind="too-many-connections")
            )
        else:
            self._wait_for_headers()
            self._watch_reading()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_next_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._watch_next_request()
            if self.conn.their_state is h11.SEND_BODY:  # it was refused before it was read
                asyncio.get_running_loop().call_later(REST_SECONDS, self._cut_off)

    def _watch_next_request(self) -> None:
        unfinished, _ = self.conn.trailing_data
        if self._is_answering() or not unfinished:
            self._stop_waiting()
        elif self._timer is None:
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)

    def _cut_off(self) -> None:
        """Close the connection of a client that goes on sending a body which was answered long ago."""
        if self.conn.their_state is h11.SEND_BODY and not self._is_answering():
            self.transport.abort()

    def _watch_reading(self) -> None:
        """Cut off a client that has an answer and takes nothing of it: the memory and the place are for others."""
        loop = asyncio.get_running_loop()
        now, unread = loop.time(), self.transport.get_write_buffer_size()
        if not unread or unread < self._unread:
            self._unread_since = now
        self._unread = unread
        if unread and now - self._unread_since > self.options.upload_seconds:
            self.transport.abort()
        else:
            self._reading = loop.call_later(self.options.upload_seconds / 4, self._watch_reading)

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


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """A second Ctrl-C cancels everything, which needs no traceback; bytes that are not HTTP were answered."""
    text = record.getMessage()
    return "CancelledError" not in text and "Invalid HTTP request" not in text


def protocol_class(options: ServeOptions) -> type[BoundedProtocol]:
    """The protocol of a service with these options."""
    return type("ServiceProtocol", (BoundedProtocol,), {"options": options})


def server_config(app: object, options: ServeOptions) -> uvicorn.Config:
    """How uvicorn runs the application."""
    logging.getLogger("uvicorn.error").addFilter(_is_worth_a_line)
    return uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, server_header=False, date_header=True,  # type: ignore[arg-type]
        proxy_headers=False, http=protocol_class(options), ws="none", lifespan="on",
        timeout_keep_alive=20, timeout_graceful_shutdown=round(options.stop_seconds), h11_max_incomplete_event_size=32_768,
    )  # fmt: skip
