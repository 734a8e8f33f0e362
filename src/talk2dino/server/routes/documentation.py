"""What the API's documentation says about bodies and answers that FastAPI cannot derive."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from talk2dino.server.answers import MEDIA_TYPES
from talk2dino.server.schemas import SegmentForm

_PROBLEM = {
    "type": "object", "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
        "detail": {"type": "string"}, "accepted": {}, "hint": {"type": "string"},
    },
}  # fmt: skip
_EXAMPLE = {
    "type": "urn:talk2dino:problem:refused-input", "title": "Refused input", "status": 422,
    "detail": "the form has no image", "accepted": "a file in the field 'image'",
}  # fmt: skip
_WHEN = {
    400: "not a form or not JSON", 401: "a token is needed", 403: "a foreign page", 404: "no such image",
    408: "the upload took too long", 409: "the image was encoded in windows", 413: "too much of something",
    415: "not an image", 421: "a foreign host", 422: "a value that is not accepted",
    503: "loading, or full: try again after Retry-After seconds",
}  # fmt: skip
_ANY = (401, 403, 408, 421)  # of the layers around every route
_BINARY = {"schema": {"type": "string", "format": "binary"}}

SEGMENTED = {
    "width": 96, "height": 64, "names": ["background", "sky", "ball"], "background": 0,
    "shares": {"sky": 0.7, "background": 0.2, "ball": 0.1},
    "annotations": [
        {"id": 1, "image_id": 0, "category_id": 1, "segmentation": {"size": [64, 96], "counts": "0b1"}, "area": 4300.0,
         "bbox": [0.0, 0.0, 96.0, 45.0], "iscrowd": 0}
    ],
    "palette": [[0, 0, 0], [0, 114, 178], [213, 94, 0]], "model": "micro", "info": {"method": "talk2dino", "mode": "whole"},
    "notes": [], "understood": [],
}  # fmt: skip


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that can answer with these problems, besides those that every route can."""
    content = {"application/problem+json": {"schema": _PROBLEM, "example": _EXAMPLE}}
    return {status: {"description": _WHEN[status], "content": content} for status in sorted({*statuses, *_ANY})}


def segmented() -> dict[int | str, dict[str, Any]]:
    """A result in one of the formats."""
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}, "example": SEGMENTED}}
    content |= {MEDIA_TYPES[name]: _BINARY for name in ("png", "npz", "cvat", "cvat-masks")}
    return {200: {"description": "labels in the format that was asked for", "content": content}}


def answer(description: str, example: Any, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """A JSON answer with an example."""
    kind = "array" if isinstance(example, list) else "object"
    return {
        status: {
            "description": description,
            "content": {"application/json": {"schema": {"type": kind}, "example": example}},
        }
    }


def binary(description: str, *media_types: str) -> dict[int | str, dict[str, Any]]:
    """A binary answer."""
    return {200: {"description": description, "content": dict.fromkeys(media_types, _BINARY)}}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """``openapi_extra`` of a JSON body that the route reads by itself."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(value: Any) -> Any:
        if isinstance(value, list):
            return [inlined(one) for one in value]
        if not isinstance(value, dict):
            return value
        if reference := value.get("$ref"):
            value = definitions[reference.rpartition("/")[2]] | {
                key: own for key, own in value.items() if key != "$ref"
            }
        return {key: inlined(own) for key, own in value.items()}

    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined(schema)}}}}


def form(only_image: bool = False) -> dict[str, Any]:
    """``openapi_extra`` of a multipart form."""
    schema = SegmentForm.model_json_schema()
    properties = schema["properties"]
    if only_image:
        properties = {"image": properties["image"]}
    else:
        for name in ("threshold", "examples", "negative_examples"):
            text = properties[name].get("description", "")
            properties[name] = {"type": "string", "description": f"{text} As JSON."}
    properties["image"] = {"type": "string", "format": "binary", "description": "an image file"}
    for name in ("prompts", "negative", "background", "clean", "refine", "mode", "method"):
        if name in properties:
            properties[name] = {"type": "string", "description": properties[name].get("description", "")}
    body = {"type": "object", "required": ["image"] if only_image else ["image", "prompts"], "properties": properties}
    example = {} if only_image else {"prompts": "sky, grass, car=red car|automobile", "background": "true"}
    return {
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": body, "example": example}},
        }
    }
