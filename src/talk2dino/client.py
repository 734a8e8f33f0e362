"""A client for the service of ``talk2dino serve``; HTTP is the standard library's.

    client = Client("http://127.0.0.1:8000")
    result = client.segment("beach.png", "sky, sand, sea")           # a talk2dino.Segmentation
    with client.encode("beach.png") as image:                        # encode once ...
        result = image.segment("sky, sand", background=True)         # ... ask often

What the service refuses is raised as a ServiceError with its sentence.
"""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import time
import uuid
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from talk2dino.errors import InputError, Talk2DinoError
from talk2dino.types import Segmentation


class ServiceError(Talk2DinoError):
    """The service refused a request (``status`` and its ``problem``, RFC 9457) or cannot be reached (status 0)."""

    def __init__(self, message: str, status: int = 0, problem: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status, self.problem = status, problem or {}


class Client:
    """Talks to one service, over a new connection per request; a busy service (503) is asked again when it says."""

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 60.0, retries: int = 4) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"the service's address must look like http://127.0.0.1:8000; got {url!r}")
        self.url, self.timeout, self.retries = parts.geturl().rstrip("/"), timeout, retries
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._prefix = parts.netloc.rpartition("@")[2], parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str) -> Any:
        """The JSON at "/health", "/ready", "/v1/models", "/v1/methods" or "/v1/examples"."""
        return json.loads(self.request("GET", path))

    def segment(self, image: str | Path | bytes, prompts: Any, *, format: str = "labels", **options: Any) -> Any:
        """Segment one image, given as a file or its bytes; prompts and ``options`` are those of the service's API.

        Returns: for format "labels" a Segmentation, for "json" a dict; for "overlay", "png" and "npz" the bytes of the file.
        """
        return _result(self.request("POST", "/v1/segment", *_form(image, _fields(prompts, format, options))), format)

    def encode(self, image: str | Path | bytes) -> EncodedImage:
        """Encode an image once and ask about it often, until it expires."""
        found = json.loads(self.request("POST", "/v1/images", *_form(image, {})))
        return EncodedImage(self, found["id"], found)

    def text(self, prompts: Any, *, negative: Any = None) -> dict[str, Any]:
        """The vectors of words: names, negative (how many of the last), and embeddings, (N, D) float32, L2-normalised."""
        body = json.dumps({"prompts": prompts, "negative": negative}).encode()
        found = json.loads(self.request("POST", "/v1/text", body))
        vectors = np.frombuffer(base64.b64decode(found["embeddings"]), dtype="<f4").reshape(-1, found["dim"])
        return {**found, "embeddings": vectors}

    def request(self, verb: str, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        """The service's answer to one request, which is repeated while the service is busy."""
        for left in range(self.retries, -1, -1):
            response, content = self._send(verb, path, body, kind)
            if response.status < 400:
                return content
            wait = response.getheader("Retry-After", "")
            if response.status != 503 or not wait.isdecimal() or not left:
                break
            time.sleep(min(int(wait), 30))
        problem = json.loads(content) if response.getheader("Content-Type") == "application/problem+json" else {}
        sentence = " ".join(str(problem[name]) for name in ("detail", "hint") if problem.get(name))
        raise ServiceError(sentence or f"the service answered with {response.status}", response.status, problem)

    def _send(self, verb: str, path: str, body: bytes | None, kind: str) -> tuple[HTTPResponse, bytes]:
        with contextlib.closing(self._connection(self._host, timeout=self.timeout)) as connection:
            try:
                # A service that refuses an upload answers before it has read all of it.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(verb, self._prefix + path, body, {**self._headers, "Content-Type": kind})
                response = connection.getresponse()
                return response, response.read()
            except (OSError, HTTPException) as error:
                raise ServiceError(f"the service at {self.url} cannot be reached: {str(error) or error!r}") from error


@dataclass(frozen=True)
class EncodedImage(contextlib.AbstractContextManager["EncodedImage"]):
    """An image in the service's memory, from :meth:`Client.encode`; the end of a ``with`` block deletes it there."""

    client: Client
    id: str
    about: dict[str, Any]  # the service's answer: width, height, grid, expires (in seconds), notes

    def segment(self, prompts: Any, *, format: str = "labels", **options: Any) -> Any:
        """As :meth:`Client.segment`, without encoding the image again."""
        body = json.dumps(_fields(prompts, format, options)).encode()
        return _result(self.client.request("POST", f"/v1/images/{self.id}/segment", body), format)

    def features(self) -> dict[str, Any]:
        """Arrays by name (patches, attention, heads), and "metadata", a dict of texts; see docs/serve.md."""
        content = self.client.request("GET", f"/v1/images/{self.id}/features")
        start = 8 + struct.unpack_from("<Q", content)[0]
        header: dict[str, Any] = json.loads(content[8:start])
        found: dict[str, Any] = {"metadata": header.pop("__metadata__", {})}
        for name, about in header.items():
            values, dtype = content[start:][slice(*about["data_offsets"])], {"F16": "<f2", "F32": "<f4"}[about["dtype"]]
            found[name] = np.frombuffer(values, dtype=dtype).reshape(about["shape"])
        return found

    def delete(self, *_: object) -> None:
        """Delete the image from the service's memory, if it has not expired."""
        with contextlib.suppress(ServiceError):
            self.client.request("DELETE", f"/v1/images/{self.id}")

    __exit__ = delete


def _fields(prompts: Any, format: str, options: dict[str, Any]) -> dict[str, Any]:
    format = "png" if format == "labels" else format
    return {n: value for n, value in {"prompts": prompts, "format": format, **options}.items() if value is not None}


def _form(image: str | Path | bytes, fields: dict[str, Any]) -> tuple[bytes, str]:
    """Body and content type of a form with one image; a field that is not text is written as JSON."""
    content = image if isinstance(image, bytes) else Path(image).read_bytes()
    head = f'--{(boundary := uuid.uuid4().hex)}\r\nContent-Disposition: form-data; name="'
    texts = {n: v if isinstance(v, str) else json.dumps(v) for n, v in fields.items()}
    parts = [f'{head}{name}"\r\n\r\n{text}\r\n'.encode() for name, text in texts.items()]
    parts += [f'{head}image"; filename="image"\r\n\r\n'.encode(), content, f"\r\n--{boundary}--\r\n".encode()]
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"


def _result(content: bytes, format: str) -> Any:
    if format == "labels":
        return Segmentation.from_bytes(content, ".png", name="the service's answer")
    return json.loads(content) if format == "json" else content
