"""Who may use the service, and what browsers may do with its answers."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from talk2dino.server.options import ServeOptions, is_loopback
from talk2dino.server.problems import Problem, problem_response

#: Addresses that need no token: the page itself (which asks for it), whether the service lives, and its documentation.
OPEN = ("/", "/health", "/ready", "/docs", "/openapi.json", "/favicon.ico")
OPEN_FOLDERS = ("/static/", "/docs/")

CONTENT_SECURITY_POLICY = "; ".join([
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob: data:", "connect-src 'self'",
    "font-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
])  # fmt: skip
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class Guard:
    """ASGI middleware: checks tokens, and where none is needed, that no foreign web page is behind a request."""

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        self.app, self.options = app, options
        self.token = None if options.token is None else options.token.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            problem = self._refusal(scope)
            if problem is not None:
                await problem_response(problem)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Problem | None:
        path, headers = scope["path"], dict(scope["headers"])
        if self.options.private:
            return self._foreign(headers)
        if self.token is None or path in OPEN or path.startswith(OPEN_FOLDERS):
            return None
        given = token_of(headers)
        if given and hmac.compare_digest(given, self.token):
            return None
        return Problem(
            401, "the token is wrong" if given else "this service wants a token", kind="token",
            accepted="Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip

    def _foreign(self, headers: dict[bytes, bytes]) -> Problem | None:
        """Without a token, only this machine may ask: a web page elsewhere could otherwise use the visitor's browser."""
        host = headers.get(b"host", b"").decode("latin-1")
        if host and not self._is_own(host):
            return Problem(421, f"this service is not {host[:80]!r}", kind="foreign-host",
                           hint="use its own address, or start it with a token or --allow-anonymous")  # fmt: skip
        origin = headers.get(b"origin", b"").decode("latin-1")
        allowed = ("", f"http://{host}", f"https://{host}", *self.options.cors)
        if origin not in allowed and "*" not in self.options.cors:
            return Problem(403, f"pages of {origin[:80]!r} may not use this service", kind="foreign-origin",
                               hint="start it with --cors ORIGIN to allow them")  # fmt: skip
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name == self.options.host or is_loopback(name)


def token_of(headers: Mapping[bytes, bytes]) -> bytes:
    """The token that a client sent: ``Authorization: Bearer``; the password of ``Authorization: Basic``, which is all that
    Label Studio can send; or ``Token:``, as X-AnyLabeling sends it."""
    kind, _, given = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() == b"basic":
        try:
            return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return given.strip() if kind.lower() == b"bearer" else headers.get(b"token", b"").strip()


def with_headers(send: Send, shared: bool, caching: str) -> Send:
    """``send`` that adds the headers of every answer.

    Args:
        shared: whether pages of other origins may read answers (``--cors``).
        caching: Cache-Control of answers that do not set their own.
    """
    fixed = {
        **HEADERS,
        "cache-control": caching,
        "cross-origin-resource-policy": "cross-origin" if shared else "same-origin",
    }
    added = [(name.encode(), value.encode()) for name, value in fixed.items()]

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = list(message.get("headers", []))
            present = {name.lower() for name, _ in own}
            message = {**message, "headers": [*own, *(header for header in added if header[0] not in present)]}
        await send(message)

    return wrapped
