"""Limits on what clients send: bytes per request, bytes of all requests together, and time."""

from __future__ import annotations

import asyncio

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from talk2dino.server.options import ServeOptions
from talk2dino.server.problems import Problem, busy, problem_response

#: Bytes of a body that holds no image.
LARGEST_JSON = 2_000_000
#: Addresses whose JSON holds images in base64, which takes four bytes for three.
IMAGES_IN_JSON = ("/x-anylabeling/", "/label-studio/")
#: A client that is refused may still be sending; so much is read and thrown away, so that it can read the answer.
DRAIN_BYTES, DRAIN_SECONDS = 256_000_000, 3.0


class Bounds:
    """ASGI middleware that counts the body of each request while it is read."""

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        self.app, self.options = app, options
        self.held = 0  # bytes of all bodies that are being read or worked on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(self, scope, receive)
        try:
            body.check_announced()
            await self.app(scope, body.receive, body.drained(send))
        except Problem as problem:  # refused by its announced length
            await problem_response(problem)(scope, receive, body.drained(send))
        finally:
            self.held -= body.size


class _Body:
    def __init__(self, bounds: Bounds, scope: Scope, receive: Receive) -> None:
        self.bounds, self.options, self._receive = bounds, bounds.options, receive
        self.size, self.complete = 0, False
        headers = dict(scope["headers"])
        self.announced = headers.get(b"content-length", b"")
        self.chunked = b"transfer-encoding" in headers
        is_form = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        self.most = self.options.max_upload if is_form else min(LARGEST_JSON, self.options.max_upload)
        if scope["path"].startswith(IMAGES_IN_JSON):
            self.most = self.options.max_upload * 4 // 3 + LARGEST_JSON
        self.deadline = asyncio.get_running_loop().time() + self.options.upload_seconds

    def check_announced(self) -> None:
        if self.announced.isdigit() and int(self.announced) > self.most:
            raise self._too_large(f"{int(self.announced):,} bytes were announced")

    def _too_large(self, what: str) -> Problem:
        return Problem(413, what, kind="too-large", accepted=f"at most {self.most:,} bytes",
                       hint="send a smaller version of the image")  # fmt: skip

    async def receive(self) -> Message:
        """The next piece of the body.

        Raises:
            Problem: 413 more bytes than allowed, 408 too slow, 503 too many uploads at the same time.
        """
        if self.complete:
            return await self._receive()
        left = self.deadline - asyncio.get_running_loop().time()
        try:
            with anyio.fail_after(max(left, 0.001)):  # asyncio.wait_for of Python 3.11 can swallow a cancellation
                message = await self._receive()
        except TimeoutError:
            raise Problem(
                408, f"the request was not complete after {self.options.upload_seconds:g} s", kind="slow-upload",
                hint="send a smaller version of the image", headers={"Connection": "close"},
            ) from None  # fmt: skip
        if message["type"] == "http.request":
            piece = len(message.get("body", b""))
            self.size += piece
            self.bounds.held += piece
            self.complete = not message.get("more_body", False)
            if self.size > self.most:
                raise self._too_large(f"the body has more than {self.most:,} bytes")
            if self.bounds.held > self.options.max_uploads:
                raise busy("too many uploads at the same time", 2, kind="too-many-uploads")
        else:
            self.complete = True
        return message

    def drained(self, send: Send) -> Send:
        """``send`` that, before an answer ends, reads what the client is still sending."""
        expects = self.chunked or (self.announced.isdigit() and int(self.announced) > 0)

        async def wrapped(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not last or self.complete or not expects:
                await send(message)
                return
            await send({**message, "more_body": True})
            await self._drain()
            await send({"type": "http.response.body", "body": b""})

        return wrapped

    async def _drain(self) -> None:
        size = 0
        with anyio.move_on_after(DRAIN_SECONDS):
            while size < DRAIN_BYTES:
                message = await self._receive()
                size += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
