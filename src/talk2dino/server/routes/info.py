"""Whether the service lives, what it measures, what it can do."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from talk2dino.errors import Talk2DinoError
from talk2dino.server.answers import dumps
from talk2dino.server.problems import Problem
from talk2dino.server.routes.documentation import answer, binary, problems
from talk2dino.server.state import service_of, state_of
from talk2dino.world.examples import EXAMPLES, example_png

router = APIRouter()
_LOADED = {
    "name": "micro", "size": 128, "patch_size": 8, "dim": 192, "heads": 6, "variant": "published", "threshold": 0.58,
    "threshold_range": [0.0, 1.0], "dtype": "float32", "device": "cpu", "engine": "torch", "method": "talk2dino",
    "space": "talk2dino:0a1b2c3d",
}  # fmt: skip
_METHOD = {
    "name": "talk2dino", "description": "CLIP's words, mapped by psi into DINO's space",
    "modes": ["whole", "slide", "square"], "default_mode": "whole", "can_clean": True, "takes_words": True,
    "threshold": 0.58, "threshold_range": [0.0, 1.0], "available": True, "reason": "",
}  # fmt: skip
_EXAMPLE = {"name": "beach", "url": "/v1/examples/beach", "prompts": "sky, sand", "width": 480, "height": 360}


def _json(document: object, status: int = 200, **headers: str) -> Response:
    return Response(dumps(document), status, headers, "application/json")


@router.get("/health", tags=["state"], summary="Whether the process lives", response_class=Response,
            responses={**answer("it does", {"status": "ok"}), **problems()})  # fmt: skip
async def health() -> Response:
    """200 as soon as the service listens, also while the model is loading."""
    return _json({"status": "ok"})


@router.get(
    "/ready", tags=["state"], summary="Whether the model is loaded", response_class=Response,
    responses={**answer("the model is loaded", {"status": "ready", "model": "micro"}),
               **answer("not yet, and what it is doing", {"status": "loading", "step": "loading the model"}, 503)},
)  # fmt: skip
async def ready(request: Request) -> Response:
    """200 when the service can segment; 503 with the step that it is at before."""
    state = state_of(request)
    if state.service is None:
        status = "loading" if state.error is None else "failed"
        return _json({"status": status, "step": state.step}, 503, **{"Retry-After": "1"})
    described = state.service.models.describe()
    return _json(
        {"status": "ready", "model": described["name"], **{k: described[k] for k in ("method", "dtype", "device")}}
    )


@router.get("/metrics", tags=["state"], summary="Metrics for Prometheus", response_class=Response,
            responses={**binary("text", "text/plain"), **problems()})  # fmt: skip
async def metrics(request: Request) -> Response:
    """Requests, times, batches, memory."""
    return Response(state_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get(
    "/v1/models", tags=["about"], summary="The loaded model, and the catalog", response_class=Response,
    responses={**answer("the models", {"loaded": _LOADED, "models": [{"name": "micro"}]}), **problems(503)},
)  # fmt: skip
async def models(request: Request) -> Response:
    """The model of this service and the named models of the package."""
    from talk2dino.models.catalog import list_models

    rows = [asdict(spec) for spec in list_models()]
    return _json({"loaded": service_of(request).models.describe(), "models": rows})


@router.get("/v1/methods", tags=["about"], summary="The methods", response_class=Response,
            responses={**answer("the methods", [_METHOD]), **problems(503)})  # fmt: skip
async def methods(request: Request) -> Response:
    """Each method, its modes and default threshold, and whether it can run here; if not, why."""
    described = service_of(request).models.describe_methods
    return _json(await asyncio.get_running_loop().run_in_executor(None, described))


@router.get("/v1/examples", tags=["about"], summary="Bundled images", response_class=Response,
            responses={**answer("the images", [_EXAMPLE]), **problems()})  # fmt: skip
async def examples() -> Response:
    """Drawn images that show what the service can do."""
    rows = [
        {
            "name": one.name,
            "url": f"/v1/examples/{one.name}",
            "prompts": one.prompts,
            "width": one.width,
            "height": one.height,
        }
        for one in EXAMPLES.values()
    ]
    return _json(rows)


@router.get("/v1/examples/{name}", tags=["about"], summary="A bundled image", response_class=Response,
            responses={**binary("the image", "image/png"), **problems(404)})  # fmt: skip
async def example(name: str) -> Response:
    """One of the bundled images as a PNG."""
    if name not in EXAMPLES:
        raise Problem(404, f"there is no example {name[:60]!r}", kind="no-such-example", accepted=list(EXAMPLES))
    try:
        content = await asyncio.get_running_loop().run_in_executor(None, example_png, name)
    except Talk2DinoError as error:
        raise Problem(500, str(error)) from None
    return Response(content, headers={"Cache-Control": "private, max-age=86400"}, media_type="image/png")
