"""A service over a real socket in a thread of this process, and raw requests to it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

Address = tuple[str, int]


@contextmanager
def live_service(app: Any, options: Any, *also: socket.socket) -> Iterator[Address]:
    """Run the application with the settings of ``talk2dino serve``; yields its address.

    Args:
        also: other sockets that it listens on.
    """
    from talk2dino.server.lifecycle import listen
    from talk2dino.server.protocol import server_config

    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(server_config(app, options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener, *also]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[:2]
    finally:
        server.should_exit = True
        thread.join(20)
        for one in (listener, *also):
            one.close()
        assert not thread.is_alive(), "the service did not stop"


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


def exchange(address: Address, request: bytes, *, end: bool = False, timeout: float = 10) -> Answer | None:
    """Send bytes and read one response; None if the service closes the connection without one.

    Args:
        end: say that nothing more will be sent.
    """
    with socket.create_connection(address, timeout=timeout) as connection:
        with contextlib.suppress(OSError):  # refused before everything was sent
            connection.sendall(request)
            if end:
                connection.shutdown(socket.SHUT_WR)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer | None:
    """The next response on a connection; None at its end."""
    content = b""
    try:
        while b"\r\n\r\n" not in content:
            if not (piece := connection.recv(65536)):
                return None
            content += piece
        head, _, body = content.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            while not body.endswith(b"0\r\n\r\n") and (piece := connection.recv(65536)):
                body += piece
        while len(body) < int(headers.get("content-length", 0)) and (piece := connection.recv(65536)):
            body += piece
    except ConnectionResetError:
        return None
    return Answer(int(first.split()[1]), headers, body)


def raw(verb: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A request; names of headers with _ for -. Content-Length is right unless it is given."""
    given = {"host": "127.0.0.1"} | {name.replace("_", "-"): value for name, value in headers.items()}
    if body and "content-length" not in given and "transfer-encoding" not in given:
        given["content-length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value is not None)
    return f"{verb} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


BOUNDARY = "0f1e2d3c"


def part(name: str, content: bytes | str, **more: str) -> bytes:
    """One part of a multipart form."""
    content = content.encode() if isinstance(content, str) else content
    extra = "".join(f"; {key}={json.dumps(value)}" for key, value in more.items())
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + content + b"\r\n"


def form(path: str, *parts: bytes, end: bytes = b"--0f1e2d3c--\r\n", **headers: str) -> bytes:
    """A POST of a multipart form."""
    return raw("POST", path, b"".join(parts) + end, content_type=f"multipart/form-data; boundary={BOUNDARY}", **headers)


def segment_form(image: bytes, path: str = "/v1/segment", **fields: Any) -> bytes:
    """A POST of an image with options; values that are not texts are written as JSON."""
    given = {name: value if isinstance(value, str | bytes) else json.dumps(value) for name, value in fields.items()}
    return form(path, *(part(name, value) for name, value in given.items()), part("image", image, filename="a.png"))


def json_post(path: str, document: Any, **headers: str) -> bytes:
    """A POST of JSON; bytes and texts are sent as they are."""
    body = (
        document
        if isinstance(document, bytes)
        else document.encode()
        if isinstance(document, str)
        else json.dumps(document).encode()
    )
    return raw("POST", path, body, content_type="application/json", **headers)
