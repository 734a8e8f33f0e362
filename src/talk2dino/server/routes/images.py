"""``/v1/images``: encode an image once, ask often."""

from __future__ import annotations

from hashlib import blake2b

from fastapi import APIRouter, Request, Response

from talk2dino.server.answers import MEDIA_TYPES, dumps
from talk2dino.server.forms import read_form
from talk2dino.server.problems import Problem
from talk2dino.server.routes.documentation import answer, binary, form, problems, segmented
from talk2dino.server.schemas import Ask
from talk2dino.server.state import service_of, while_connected

router = APIRouter(tags=["encode once, ask often"])
_SENT = {"id": "AbCdEfGh", "width": 640, "height": 480, "grid": [32, 43], "mode": "whole", "expires": 900, "notes": []}


@router.post(
    "/v1/images", status_code=201, summary="Encode an image", response_class=Response, openapi_extra=form(only_image=True),
    responses={**answer("the id under which the image is kept", _SENT, 201), **problems(400, 413, 415, 422, 503)},
)  # fmt: skip
async def encode(request: Request) -> Response:
    """Encode an image and keep it for ``expires`` seconds after its last use."""
    service = service_of(request)
    service.check_room()
    sent = await read_form(request)
    if sent.fields:
        field = next(iter(sent.fields))[:60]
        raise Problem(422, f"there is no field {field!r}", kind="refused-input", accepted=["image"])
    with service.admitted():
        session = await while_connected(request, service.keep(sent.image))
    features = next(iter(session.features.values()))
    height, width = session.size
    document = {
        "id": session.id, "width": width, "height": height, "grid": list(features.grid), "mode": features.mode,
        "expires": round(service.options.session_seconds), "notes": list(session.notes),
    }  # fmt: skip
    location = {"Location": f"/v1/images/{session.id}"}
    return Response(dumps(document), 201, location, "application/json")


@router.post(
    "/v1/images/{id}/segment", summary="Segment an encoded image", response_class=Response,
    responses={**segmented(), **problems(400, 404, 413, 422, 503)},
)  # fmt: skip
async def segment(request: Request, id: str, ask: Ask) -> Response:
    """As ``POST /v1/segment``, for an image that is encoded already."""
    service = service_of(request)
    request.state.prompts = ask.prompts
    with service.admitted():
        content = await while_connected(request, service.ask_again(service.sessions.get(id), ask))
    return Response(content, media_type=MEDIA_TYPES[ask.format])


@router.get(
    "/v1/images/{id}/features", summary="The features of an encoded image", response_class=Response,
    responses={**binary("a safetensors file", MEDIA_TYPES["features"]), 304: {"description": "not modified"},
               **problems(404, 409, 503)},
)  # fmt: skip
async def features(request: Request, id: str) -> Response:
    """What words are compared with: patches, attention and head embeddings, as a safetensors file."""
    service = service_of(request)
    session = service.sessions.get(id)
    headers = {"ETag": f'"{blake2b(id.encode(), digest_size=12).hexdigest()}"', "Cache-Control": "private, no-cache"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    with service.admitted():
        content = await while_connected(request, service.features_file(session))
    return Response(content, headers=headers, media_type=MEDIA_TYPES["features"])


@router.get(
    "/v1/images/{id}/picture", summary="The encoded image itself", response_class=Response,
    responses={**binary("the image with its rotation applied", "image/jpeg", "image/png"), **problems(404, 503)},
)  # fmt: skip
async def picture(request: Request, id: str) -> Response:
    """The image as the model sees it: upright, RGB."""
    service = service_of(request)
    with service.admitted():
        content, media_type = await while_connected(request, service.picture(service.sessions.get(id)))
    return Response(content, media_type=media_type)


@router.delete(
    "/v1/images/{id}", status_code=204, summary="Forget an encoded image", response_class=Response,
    responses={204: {"description": "forgotten"}, **problems(404, 503)},
)  # fmt: skip
async def forget(request: Request, id: str) -> Response:
    """Forget an image before its time is over."""
    service_of(request).forget(id)
    return Response(status_code=204)
