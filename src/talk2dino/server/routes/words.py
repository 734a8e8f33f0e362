"""``POST /v1/text``: words to vectors."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from talk2dino.server.answers import dumps, text_document
from talk2dino.server.routes.documentation import answer, problems
from talk2dino.server.schemas import WordsAsk
from talk2dino.server.state import service_of, while_connected

router = APIRouter(tags=["words"])
_VECTORS = {
    "names": ["sky"], "negative": 0, "synonyms": {"sky": ["sky"]}, "dim": 192, "embeddings": "(base64 of float32)",
    "notes": [], "understood": [], "palette": [[0, 114, 178]],
}  # fmt: skip


@router.post(
    "/v1/text", summary="Words to vectors", response_class=Response,
    responses={**answer("one vector per class, negative classes last", _VECTORS), **problems(400, 413, 422, 503)},
)  # fmt: skip
async def text(request: Request, ask: WordsAsk) -> Response:
    """The vectors that patches are compared with: little-endian float32 (N, D), L2-normalised, as base64."""
    service = service_of(request)
    request.state.prompts = ask.prompts
    with service.admitted():
        segmenter = await service.segmenter(None)
        vectors = await while_connected(request, service.wording.vectors(ask, segmenter))
    prompts, negative = ask.read(service.options.max_prompts)
    synonyms = {
        name: list(words) for one in (prompts, negative) if one for name, words in zip(one.names, one.synonyms, strict=True)
    }  # fmt: skip
    return Response(dumps({**text_document(vectors), "synonyms": synonyms}), media_type="application/json")
