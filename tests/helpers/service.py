"""Requests that tests of the service share, and a real server on a loopback port."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from live import live_service

from talk2dino.server.app import create_app
from talk2dino.server.options import ServeOptions


@contextmanager
def running(segmenter, worker=None, **options) -> Iterator[tuple[str, int]]:
    """(host, port) of a service in a thread of this process."""
    given = ServeOptions(**{"model": "micro", "port": 0, "batch_milliseconds": 1, **options})
    own = [] if worker is None else [worker.listen()]
    with live_service(create_app(given, segmenter, worker=worker), given, *own) as address:
        yield address


def form_request(image: bytes, path: str = "/v1/segment", **fields: str) -> bytes:
    """A whole multipart request as it goes over the socket."""
    parts = [f'--sep\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'.encode() for n, v in fields.items()]
    head = b'--sep\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
    body = b"".join([*parts, head, image, b"\r\n--sep--\r\n"])
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=sep\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body


def read_answer(connection: socket.socket, timeout: float = 30) -> tuple[int, bytes]:
    """Status and body of what comes until the connection closes; (0, b"") where nothing came."""
    connection.settimeout(timeout)
    content = b""
    while piece := connection.recv(65536):
        content += piece
    head, _, body = content.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]) if head else 0, body


def post_image(client, image, **fields):
    """POST /v1/segment."""
    given = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    return client.post("/v1/segment", files={"image": ("scene.png", image, "image/png")}, data=given)


def keep_image(client, image) -> str:
    """POST /v1/images; the id."""
    answer = client.post("/v1/images", files={"image": ("scene.png", image, "image/png")})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]
