"""``POST /v1/segment``: an image and words in, labels out, nothing kept."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from talk2dino.server.answers import MEDIA_TYPES
from talk2dino.server.forms import read_form
from talk2dino.server.routes.documentation import form, problems, segmented
from talk2dino.server.schemas import ask_from_form
from talk2dino.server.state import service_of, while_connected

router = APIRouter(tags=["segment"])


@router.post(
    "/v1/segment", summary="Segment an image", response_class=Response, openapi_extra=form(),
    responses={**segmented(), **problems(400, 413, 415, 422, 503)},
)  # fmt: skip
async def segment(request: Request) -> Response:
    """An image and words in, a label for every pixel out."""
    service = service_of(request)
    service.check_room()
    sent = await read_form(request)  # before it has a place: a slow upload takes none
    ask = ask_from_form(sent.fields)
    request.state.prompts = ask.prompts
    with service.admitted():
        content = await while_connected(request, service.segment(sent.image, ask))
    return Response(content, media_type=MEDIA_TYPES[ask.format])
