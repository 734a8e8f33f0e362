"""The remote server protocol of X-AnyLabeling, under ``/x-anylabeling``: text prompts and marks in, polygons out.

Its client asks ``GET {server_url}/v1/models`` and ``POST {server_url}/v1/predict``; with the prefix in ``server_url``, these
do not meet the service's own addresses. The client ignores the body of an error and shows its status, so errors have the
statuses of this service and the body that X-AnyLabeling documents.

Source: CVHub520/X-AnyLabeling, anylabeling/services/auto_labeling/remote_server.py (commit 0f38687); CVHub520/
X-AnyLabeling-Server, docs/router.md and app/schemas (commit aad6ffa).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from talk2dino.errors import Talk2DinoError
from talk2dino.server.answers import dumps
from talk2dino.server.problems import Problem, problem_of
from talk2dino.server.routes.documentation import answer, json_body, problems
from talk2dino.server.schemas import Ask, Number, Region
from talk2dino.server.shapes import polygon_shapes
from talk2dino.server.state import service_of, while_connected

if TYPE_CHECKING:
    from talk2dino.server.service import Service

PREFIX = "/x-anylabeling"
#: X-AnyLabeling asks for the class of shapes with this label.
UNNAMED = "AUTOLABEL_OBJECT"

router = APIRouter(prefix=PREFIX, tags=["X-AnyLabeling"])


class Mark(BaseModel):
    """A box or point that the user drew; label 1: this is it, 0: this is not."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["rectangle", "point"]
    data: Annotated[list[Number], Field(min_length=2, max_length=4)]
    label: int = 1

    def region(self) -> Region:
        """The same as an example."""
        if self.type == "point":
            return Region.model_validate({"point": self.data[:2]})
        if len(self.data) != 4:
            raise Problem(
                422, f"a rectangle with {len(self.data)} numbers", kind="refused-input", accepted="x1, y1, x2, y2"
            )
        x0, x1 = sorted((self.data[0], self.data[2]))
        y0, y1 = sorted((self.data[1], self.data[3]))
        return Region.model_validate({"box": [x0, y0, x1, y1]})


class Params(BaseModel):
    """What the widgets of X-AnyLabeling say."""

    model_config = ConfigDict(extra="ignore")
    text_prompt: str = Field("", description="Classes, separated by commas or full stops.")
    conf_threshold: Number = Field(0.0, description="Pixels at which no class reaches it stay unlabelled; 0: none do.")
    epsilon_factor: float = Field(0.001, ge=0, le=1, description="Mask fineness: share of the outline's length.")
    marks: list[Mark] = Field([], max_length=1000, description="Boxes and points that show an object.")


class Predict(BaseModel):
    """A request for shapes."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"model": "micro", "image": "data:image/png;base64,...",
                                         "params": {"text_prompt": "sky, grass", "conf_threshold": 0.5}}]},
    )  # fmt: skip
    model: str
    image: str = Field(description="A data URI, or the base64 text of an image file.")
    params: Params = Params.model_validate({})

    def ask(self) -> Ask:
        """The same as a request of this service."""
        text = self.params.text_prompt.strip().rstrip(".")
        if "." in text and "," not in text:
            text = text.replace(".", ",")  # the other separator that X-AnyLabeling's servers accept
        regions: tuple[list[Region], list[Region]] = ([], [])
        for mark in self.params.marks:
            regions[mark.label != 1].append(mark.region())
        shown, unwanted = regions
        asked: dict[str, Any] = {"prompts": text or None, "background": self.params.conf_threshold or None}
        if shown:
            asked |= {"examples": {UNNAMED: shown}, "negative_examples": {"other": unwanted} if unwanted else {}}
        return Ask.model_validate(asked)

    def upload(self) -> bytes:
        """The bytes of the image file.

        Raises:
            Problem: not base64.
        """
        found = re.match(r"data:[\w/+.-]*;base64,", self.image[:100])
        try:
            return base64.b64decode(self.image[found.end() if found else 0 :], validate=True)
        except (binascii.Error, ValueError):
            raise Problem(
                422, f"the image is not base64 text: {self.image[:40]!r}", kind="not-an-image",
                accepted="data:image/png;base64,... or the base64 text of a file",
            ) from None  # fmt: skip


def describe(service: Service) -> dict[str, Any]:
    """The loaded model as the program's list of models shows it."""
    described = service.models.describe()
    threshold = described["threshold"]
    widgets: list[tuple[str, object]] = [
        ("edit_text", None), ("button_send", None), ("add_pos_rect", None), ("add_neg_rect", None), ("button_run_rect", None),
        ("button_clear", None), ("button_finish_object", None), ("input_conf", None),
        ("edit_conf", 0.0 if threshold is None else round(threshold, 2)), ("mask_fineness_slider", 10),
        ("mask_fineness_value_label", None), ("toggle_preserve_existing_annotations", False),
    ]  # fmt: skip
    return {
        "display_name": f"Talk2DINO {described['name']}", "batch_processing_mode": "text_prompt", "params": {},
        "widgets": [{"name": name, "value": value} for name, value in widgets],
    }  # fmt: skip


@router.get("/health", summary="Whether the service lives", response_class=Response,
            responses={**answer("it does", {"status": "healthy", "models_loaded": 1, "timestamp": "2026-01-01T00:00:00Z"}),
                       **problems(503)})  # fmt: skip
async def health(request: Request) -> Response:
    """As X-AnyLabeling's own server answers."""
    service_of(request)
    now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
    return _json({"status": "healthy", "models_loaded": 1, "timestamp": now})


@router.get("/v1/models", summary="The loaded model and its widgets", response_class=Response,
            responses={**answer("the model", {"success": True, "data": {"micro": {"display_name": "Talk2DINO micro"}}}),
                       **problems(503)})  # fmt: skip
async def models(request: Request) -> Response:
    """What X-AnyLabeling shows in its list of models."""
    service = service_of(request)
    return _json({"success": True, "data": {service.models.describe()["name"]: describe(service)}})


@router.get("/v1/models/{model_id}/info", summary="One model", response_class=Response,
            responses={**answer("the model", {"success": True, "data": {"model_id": "micro"}}), **problems(404, 503)})  # fmt: skip
async def info(request: Request, model_id: str) -> Response:
    """The same for one model."""
    service = service_of(request)
    try:
        _check_model(service, model_id)
    except Problem as problem:
        return _refusal(problem)
    return _json({"success": True, "data": {"model_id": model_id, **describe(service)}})


@router.post(
    "/v1/predict", summary="Polygons for an image", response_class=Response,
    openapi_extra=json_body(Predict),
    responses={**answer("the shapes", {"success": True, "data": {"shapes": [], "description": "", "replace": True}}),
               **problems(400, 404, 413, 415, 422, 503)},
)  # fmt: skip
async def predict(request: Request) -> Response:
    """Text prompts, and boxes or points as examples, to one polygon per connected area."""
    try:
        service = service_of(request)
        with service.admitted():
            body = await request.body()
            asked, upload = await asyncio.to_thread(_read, body)
            _check_model(service, asked.model)
            if not asked.params.text_prompt.strip(" ,.") and not any(mark.label == 1 for mark in asked.params.marks):
                return _shapes([])  # nothing was asked for
            request.state.prompts = asked.params.text_prompt
            shapes = partial(_shapes_of, fineness=asked.params.epsilon_factor)
            found = await while_connected(request, service.segment_into(upload, asked.ask(), shapes))
    except (HTTPException, Talk2DinoError, ValidationError) as error:
        return _refusal(error)
    return _shapes(found)


def _read(body: bytes) -> tuple[Predict, bytes]:
    try:
        asked = Predict.model_validate_json(body)
    except ValidationError as error:
        from fastapi.exceptions import RequestValidationError

        raise problem_of(RequestValidationError(error.errors())) from None
    return asked, asked.upload()


def _shapes_of(done: Any, *_: object, fineness: float) -> list[dict[str, Any]]:
    return polygon_shapes(done, fineness)


def _check_model(service: Service, model_id: str) -> None:
    own = service.models.describe()["name"]
    if model_id != own:
        raise Problem(404, f"the model {model_id[:60]!r} is not loaded", kind="model-not-found", accepted=own)


def _shapes(shapes: list[dict[str, Any]]) -> Response:
    return _json({"success": True, "data": {"shapes": shapes, "description": ""}})


def _refusal(error: Exception) -> Response:
    """The body of an error as X-AnyLabeling's server writes it; the status is this service's."""
    problem = problem_of(error)
    code = str(getattr(problem, "kind", "") or "inference-error").replace("-", "_").upper()
    document = {"success": False, "error": {"code": code, "message": str(problem.detail)}}
    return Response(dumps(document), problem.status_code, dict(problem.headers or {}), "application/json")


def _json(document: object) -> Response:
    return Response(dumps(document), media_type="application/json")
