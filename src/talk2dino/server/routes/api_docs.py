"""``/docs``: the documentation of the API as a page, made from ``/openapi.json`` by a script of this package.

Written here because the usual viewers are large (Swagger UI: 1.7 MB) and are loaded from elsewhere; this page obeys the
service's Content-Security-Policy.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Response

from talk2dino.server.problems import Problem

router = APIRouter(include_in_schema=False)

_FILES = {"index.html": "text/html", "docs.js": "text/javascript", "docs.css": "text/css"}


@cache
def _content(name: str) -> bytes:
    return (files("talk2dino.server") / "api_docs" / name).read_bytes()


@router.get("/docs")
async def docs() -> Response:
    """The page."""
    return Response(_content("index.html"), media_type="text/html; charset=utf-8")


@router.get("/docs/{name}")
async def file(name: str) -> Response:
    """Its script and style."""
    if name not in _FILES:
        raise Problem(404, "there is nothing at this address", hint="GET /docs lists the addresses")
    return Response(_content(name), media_type=f"{_FILES[name]}; charset=utf-8", headers={"Cache-Control": "no-cache"})
