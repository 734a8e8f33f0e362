"""A machine learning backend of Label Studio, under ``/label-studio``: ``health``, ``setup`` and ``predict``.

The classes are the labels of the project's labelling configuration; each brush or polygon control gets its own regions.

Source: HumanSignal/label-studio, label_studio/ml/api_connector.py and ml/models.py (1.23.2).
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from talk2dino.annotations.label_studio import regions
from talk2dino.annotations.objects import ObjectOptions, find_objects
from talk2dino.annotations.outlines import OutlineOptions
from talk2dino.annotations.types import AnnotatedImage
from talk2dino.errors import DataError, Talk2DinoError
from talk2dino.server.answers import dumps
from talk2dino.server.label_config import Control, read_controls
from talk2dino.server.label_studio_images import KEY_VARIABLE, LabelStudioImages, data_uri
from talk2dino.server.problems import Problem, problem_of
from talk2dino.server.routes.documentation import answer, problems
from talk2dino.server.schemas import Ask
from talk2dino.server.shapes import SMALLEST_SHARE
from talk2dino.server.state import service_of, state_of, while_connected
from talk2dino.types import Segmentation

if TYPE_CHECKING:
    from talk2dino.server.service import Service

log = logging.getLogger(__name__)

PREFIX = "/label-studio"
#: Label Studio gives up after 100 seconds and then keeps nothing; what is not done in this time is left for its next request.
SECONDS = 80.0
#: Tasks of one request that are worked on side by side.
TOGETHER = 4
OUTLINE = OutlineOptions(tolerance=2.0, iou=0.98)

router = APIRouter(prefix=PREFIX, tags=["Label Studio"])


class Task(BaseModel):
    """One image of a project."""

    model_config = ConfigDict(extra="ignore")
    id: int | None = None
    data: dict[str, Any] = Field(description="The address of the image, under the key that the configuration names.")


class Setup(BaseModel):
    """What Label Studio sends when a project is connected."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra={"examples": [{"project": "1.1700000000", "schema": "<View/>"}]}
    )
    schema_: str = Field("", alias="schema", description="The labelling configuration.")


class Predict(BaseModel):
    """A request for regions."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{
            "tasks": [{"id": 1, "data": {"image": "/data/upload/1/0123abcd-beach.png"}}],
            "label_config": '<View><Image name="image" value="$image"/><BrushLabels name="label" toName="image">'
                            '<Label value="sand"/></BrushLabels></View>',
        }]},
    )  # fmt: skip
    tasks: list[Task] = Field(max_length=1000)
    label_config: str


@router.get("/health", summary="Whether the service lives", response_class=Response,
            responses={**answer("it does", {"status": "UP", "model_class": "Talk2DINO"}), **problems(503)})  # fmt: skip
async def health(request: Request) -> Response:
    """As the backends of Label Studio answer."""
    service_of(request)
    return _json({"status": "UP", "model_class": "Talk2DINO"})


@router.post("/setup", summary="Connect a project", response_class=Response,
             responses={**answer("the model", {"model_version": "talk2dino-micro"}), **problems(400, 413, 422, 503)})  # fmt: skip
async def setup(request: Request, sent: Setup) -> Response:
    """Checks the labelling configuration, unless the project has none yet."""
    service = service_of(request)
    if "Labels" in sent.schema_:
        read_controls(sent.schema_)
    return _json({"model_version": _version(service)})


@router.post("/predict", summary="Regions for tasks", response_class=Response,
             responses={**answer("one entry per task", {"results": [{"result": [], "model_version": "talk2dino-micro"}]}),
                        **problems(400, 413, 422, 503)})  # fmt: skip
async def predict(request: Request, sent: Predict) -> Response:
    """Brush masks or polygons for each task, as predictions.

    A task that fails gets an entry with ``error`` instead of ``result``, which Label Studio skips, so that the others are
    kept. If every task fails, the whole request does.
    """
    service = service_of(request)
    controls = read_controls(sent.label_config)
    request.state.prompts = [label for control in controls for label in control.labels]
    with service.admitted():
        results = await while_connected(request, _all(request, service, controls, sent.tasks))
    failures = [str(result["error"]) for result in results if "error" in result]
    if failures:
        log.warning("Label Studio: %d of %d tasks failed; the first: %s", len(failures), len(results), failures[0])
    if results and len(failures) == len(results):
        raise Problem(422, failures[0], kind="no-task-done")
    return _json({"results": results, "model_version": _version(service)})


@router.post("/webhook", summary="Events of a project", response_class=Response,
             responses={**answer("nothing is done with them", {}), **problems(413)})  # fmt: skip
async def webhook(request: Request) -> Response:
    """Label Studio sends every event of a connected project; this backend learns nothing from them."""
    await request.body()
    return _json({})


async def _all(request: Request, service: Service, controls: list[Control], tasks: list[Task]) -> list[dict[str, Any]]:
    places = asyncio.Semaphore(TOGETHER)

    async def one(task: Task) -> dict[str, Any]:
        async with places:
            try:
                return await _predict(request, service, controls, task)
            except (Talk2DinoError, HTTPException) as error:
                return {"error": f"task {task.id}: {problem_of(error).detail}"}

    running = [asyncio.ensure_future(one(task)) for task in tasks]
    try:
        seconds = min(SECONDS, 0.8 * service.options.request_seconds)
        if running:
            await asyncio.wait(running, timeout=seconds)
        late = {"error": f"not reached in {seconds:.0f} s; ask again"}
        return [task.result() if task.done() else late for task in running]
    finally:
        for left in running:
            left.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _predict(request: Request, service: Service, controls: list[Control], task: Task) -> dict[str, Any]:
    """The prediction of one task."""
    found: list[dict[str, Any]] = []
    uploads: dict[str, bytes] = {}
    for place, control in enumerate(controls):
        address = task.data.get(control.key)
        if not isinstance(address, str):
            raise DataError(f"its data has no address of an image under {control.key!r}")
        if address not in uploads:
            uploads[address] = await _fetch(request, address, task.id)
        words = {label: list(synonyms) for label, synonyms in control.labels.items()}
        ask = Ask.model_validate({"prompts": words, "background": _background(service, control)})

        def answered(
            done: Segmentation, *_: object, control: Control = control, place: int = place
        ) -> list[dict[str, Any]]:
            return control_regions(done, control, f"{place}-")

        found += await service.segment_into(uploads[address], ask, answered)
    return {"result": found, "model_version": _version(service)}


def control_regions(done: Segmentation, control: Control, prefix: str = "") -> list[dict[str, Any]]:
    """The regions of one control: brush masks of the classes, or polygons of their connected areas."""
    labels = {" ".join(label.split()): label for label in control.labels}  # prompts are stripped of spaces
    smallest = max(1, round(SMALLEST_SHARE * done.labels.size))
    objects = find_objects(done.labels, done.names, done.background, ObjectOptions(smallest_area=smallest))
    named = tuple(replace(one, name=labels.get(one.name, one.name)) for one in objects)
    found = regions(
        AnnotatedImage("image", done.size, named), polygons=control.polygons, outline=OUTLINE, from_name=control.name,
        to_name=control.image,
    )  # fmt: skip
    return [{**region, "id": prefix + region["id"]} for region in found]


async def _fetch(request: Request, address: str, task: int | None) -> bytes:
    options = state_of(request).options
    if address.startswith("data:"):
        return data_uri(address)
    if options.label_studio is None:
        raise DataError("the service was started without the address of Label Studio: add --label-studio URL")
    images: LabelStudioImages | None = getattr(request.app.state, "label_studio", None)
    if images is None:
        key = os.environ.get(KEY_VARIABLE, "")
        if not key:
            raise DataError(f"the service has no API key for Label Studio: set the environment variable {KEY_VARIABLE}")
        images = request.app.state.label_studio = LabelStudioImages(options.label_studio, key, options.max_upload)
    return await asyncio.get_running_loop().run_in_executor(images.threads, images.fetch, address, task)


def _background(service: Service, control: Control) -> bool | float | None:
    """Pixels without a label are wanted; a model without a threshold labels everything."""
    if control.threshold is not None:
        return control.threshold
    return True if service.models.default.method.threshold is not None else None


def _version(service: Service) -> str:
    return f"talk2dino-{service.models.describe()['name']}"


def _json(document: object) -> Response:
    return Response(dumps(document), media_type="application/json")
