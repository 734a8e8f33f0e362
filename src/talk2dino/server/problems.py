"""Errors as ``application/problem+json`` (RFC 9457): what was given, what is accepted, what to do."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from talk2dino.errors import ImageError, ImageFormatError, ImageSizeError, Talk2DinoError
from talk2dino.io.images import FORMATS

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"

#: Statuses whose own phrase says too little.
_TITLES = {
    400: "Not a valid request", 401: "A token is needed", 404: "Not found", 405: "Method not allowed",
    408: "The upload took too long", 413: "Too large", 415: "Not a type that can be read", 422: "Refused input",
    499: "The client left", 500: "An error of the service", 503: "Not available now",
}  # fmt: skip


class Problem(HTTPException):
    """An error that becomes a problem document.

    Args:
        status: of HTTP.
        detail: one sentence: what was given and what was expected.
        kind: the last part of the problem's type.
        accepted: what would have been accepted. hint: what to do.
    """

    def __init__(
        self, status: int, detail: str, *, kind: str = "", accepted: object = None, hint: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(status, detail, dict(headers or {}))
        self.kind, self.accepted, self.hint = kind, accepted, hint


class ClientLeft(Exception):
    """The client closed its connection before the answer was there."""


def busy(detail: str, seconds: float = 1, *, kind: str = "busy") -> Problem:
    """503 with the time after which the client may try again."""
    after = str(max(1, round(seconds)))
    return Problem(503, detail, kind=kind, hint=f"try again in {after} s", headers={"Retry-After": after})


def problem_response(problem: HTTPException) -> Response:
    """The document of a problem, as a response."""
    status = problem.status_code
    phrase = _TITLES.get(status) or HTTPStatus(status).phrase
    kind = getattr(problem, "kind", "") or phrase.lower().replace(" ", "-")
    document: dict[str, Any] = {
        "type": f"urn:talk2dino:problem:{kind}", "title": phrase, "status": status, "detail": str(problem.detail)
    }  # fmt: skip
    for name in ("accepted", "hint"):
        if value := getattr(problem, name, None):
            document[name] = value
    content = json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(content, status, dict(problem.headers or {}), MEDIA_TYPE)


def problem_of(error: Exception) -> HTTPException:
    """The problem that an error of the package, of the framework or of this service is."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ClientLeft):
        return Problem(499, "the client closed the connection", kind="client-left")
    if isinstance(error, HTTPException):
        return _of_the_framework(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error.errors())
    if isinstance(error, ImageSizeError):
        return Problem(413, error.problem, kind="image-too-large", hint="send a smaller version of the image")
    if isinstance(error, ImageFormatError):
        return Problem(415, error.problem, kind="not-an-image", accepted=list(FORMATS))
    if isinstance(error, ImageError):
        return Problem(422, error.problem, kind="damaged-image", hint="save the image again and send it whole")
    if isinstance(error, Talk2DinoError):
        return Problem(422, str(error), kind="refused-input")
    return Problem(
        500, "the service failed on this request; its log says where", kind="failure",
        hint="report it with the request if it happens again",
    )  # fmt: skip


def _of_the_framework(error: HTTPException) -> Problem:
    details = {404: "there is nothing at this address", 405: "this address has no such method"}
    accepted = (error.headers or {}).get("Allow") if error.status_code == 405 else None
    return Problem(
        error.status_code, details.get(error.status_code, str(error.detail)), accepted=accepted, headers=error.headers,
        hint="GET /docs lists the addresses" if error.status_code in (404, 405) else "",
    )  # fmt: skip


def _of_validation(errors: Iterable[Mapping[str, Any]]) -> Problem:
    """400 for what is not JSON, 422 for values that are not accepted: one sentence per value."""
    sentences = []
    for error in errors:
        place = ".".join(str(part) for part in error["loc"] if part not in ("body", "query"))
        if error["type"] == "json_invalid":
            return Problem(400, "the body is not valid JSON", kind="not-json", accepted="application/json, UTF-8")
        if error["type"] == "extra_forbidden":
            sentences.append(f"there is no field {place!r}")
        elif error["type"] == "missing" and not place:
            sentences.append("the body is missing; a JSON object was expected")
        elif error["type"] == "missing":
            sentences.append(f"the field {place!r} is missing")
        else:
            message = str(error["msg"]).removeprefix("Value error, ")
            sentences.append(f"{place or 'body'}: {message[:1].lower()}{message[1:]}, got {_short(error['input'])}")
    unique = list(dict.fromkeys(sentences))
    more = f"; and {len(unique) - 4} more" if len(unique) > 4 else ""
    return Problem(422, "; ".join(unique[:4]) + more, kind="refused-input", hint="GET /docs shows examples")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def answer_with_problems(app: FastAPI) -> None:
    """Let every error of the application become a problem document."""

    async def handle(request: Request, error: Exception) -> Response:
        return problem_response(problem_of(error))

    for kind in (HTTPException, RequestValidationError, Talk2DinoError, ClientLeft, Exception):
        app.add_exception_handler(kind, handle)
