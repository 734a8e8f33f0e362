"""Several worker processes: an encoded image lives in one of them, whose number its id starts with.

A request for an image of another worker is passed on to it over a Unix socket in a folder that only this user can open.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import h11
from starlette.types import ASGIApp, Receive, Scope, Send

from talk2dino.server.problems import busy, problem_response

#: Where workers ask each other for the file of an encoded image; answered on the Unix sockets only.
UPLOAD = "/-/upload/"
_OWNER = re.compile(r"/v1/images/(\d{1,2})-[^/]+")
#: Headers that belong to one connection, and the date, which every server adds.
_OWN = (b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"date")


@dataclass(frozen=True)
class Worker:
    """One of several worker processes.

    Attributes:
        number: from 0. count: of all workers.
        folder: where their sockets are.
    """

    number: int
    count: int
    folder: Path

    @property
    def prefix(self) -> str:
        """What the ids of its images start with."""
        return f"{self.number}-"

    def socket_of(self, number: int) -> Path:
        """The Unix socket on which a worker answers the others."""
        return self.folder / f"worker-{number}.sock"

    def listen(self) -> socket.socket:
        """Its own Unix socket, bound."""
        path = self.socket_of(self.number)
        path.unlink(missing_ok=True)
        own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        own.bind(str(path))
        return own


class Forward:
    """The innermost ASGI middleware of a worker."""

    def __init__(self, app: ASGIApp, worker: Worker) -> None:
        self.app, self.worker = app, worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _OWNER.match(scope["path"]) if scope["type"] == "http" else None
        owner = self.worker.number if found is None else int(found[1])
        if owner == self.worker.number or owner >= self.worker.count:
            await self.app(scope, receive, send)
            return
        scope["route"] = SimpleNamespace(path="(to another worker)")
        body = await _body(receive)
        passing = asyncio.ensure_future(_pass_on(self.worker.socket_of(owner), scope, body, send))
        leaving = asyncio.ensure_future(_until_left(receive))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
        except (OSError, h11.ProtocolError):
            problem = busy("the process that has this image does not answer", 2, kind="worker-gone")
            await problem_response(problem)(scope, receive, send)
        finally:
            passing.cancel()
            leaving.cancel()


async def _body(receive: Receive) -> bytes:
    content = b""
    while True:
        message = await receive()
        content += message.get("body", b"")
        if not message.get("more_body", False):
            return content


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _pass_on(path: Path, scope: Scope, body: bytes, send: Send) -> None:
    """The request to the other worker, and its answer back; nothing is sent before the other worker has answered."""
    target = scope.get("raw_path") or scope["path"].encode()
    target += b"?" + scope["query_string"] if scope["query_string"] else b""
    headers = [(name, value) for name, value in scope["headers"] if name not in _OWN]
    async for event in _exchange(path, scope["method"], target, headers, body):
        if isinstance(event, h11.Response):
            kept = [(bytes(n), bytes(v)) for n, v in event.headers if n not in _OWN or n == b"content-length"]
            await send({"type": "http.response.start", "status": event.status_code, "headers": kept})
        elif isinstance(event, h11.Data):
            await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def fetch_upload(worker: Worker, id: str, token: str) -> bytes | None:
    """The file that another worker keeps under an id; None if no other worker has it."""
    found = re.fullmatch(r"(\d{1,2})-[\w-]+", id)
    if found is None or int(found[1]) == worker.number or int(found[1]) >= worker.count:
        return None
    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {token}".encode())]
    status, content = 0, b""
    try:
        async for event in _exchange(
            worker.socket_of(int(found[1])), "GET", UPLOAD.encode() + id.encode(), headers, b""
        ):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content += bytes(event.data)
    except (OSError, h11.ProtocolError):
        return None
    return content if status == 200 else None


async def _exchange(
    path: Path, method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> AsyncIterator[h11.Response | h11.Data]:
    """One request over a Unix socket: the parts of the answer."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        connection = h11.Connection(h11.CLIENT)
        own = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        for event in (
            h11.Request(method=method, target=target, headers=[*headers, *own]), h11.Data(data=body), h11.EndOfMessage()
        ):  # fmt: skip
            writer.write(connection.send(event) or b"")
        await writer.drain()
        while True:
            received = connection.next_event()
            if received is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(received, h11.Response | h11.Data):
                yield received
            elif isinstance(received, h11.EndOfMessage):
                return
    finally:
        writer.close()
