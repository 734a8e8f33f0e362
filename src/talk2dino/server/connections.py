"""Connections that stand still are closed: a request whose head never ends, an answer that nobody reads.

uvicorn limits the time between requests only; without this, a few hundred silent clients would hold every place.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class WatchedConnection(H11Protocol):
    """uvicorn's HTTP protocol with limits on time. :func:`watched` sets them."""

    #: For the head of a request, and for a part of an answer to be taken.
    seconds: float

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_since: float | None = None  # when the head began that is not complete
        self._stuck_since: float | None = None  # when the last part of an answer was taken
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_since = self.loop.time()
        self._timer = self.loop.call_later(self.seconds / 4, self._look)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_since = None
        elif self._head_since is None:
            self._head_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        now = self.loop.time()
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent or self._stuck_since is None:
            self._stuck_since = now
        self._unsent = unsent
        late = self._head_since is not None and now - self._head_since > self.seconds
        if late or (unsent and now - self._stuck_since > self.seconds):
            self.transport.abort()
            return
        self._timer = self.loop.call_later(self.seconds / 4, self._look)


def watched(seconds: float) -> type[WatchedConnection]:
    """The protocol with a limit."""
    return type("WatchedConnection", (WatchedConnection,), {"seconds": seconds})
