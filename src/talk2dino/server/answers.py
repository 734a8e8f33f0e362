"""Results as bytes: JSON, PNG, overlay, NumPy archive, and the binary file of an image's features."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from talk2dino.annotations.exports import export_bytes
from talk2dino.annotations.formats import FORMATS
from talk2dino.errors import InputError
from talk2dino.io.images import LoadedImage
from talk2dino.io.masks import plain_json, segmentation_bytes

if TYPE_CHECKING:
    from PIL import Image

    from talk2dino.methods.base import Method
    from talk2dino.types import ImageFeatures, Segmentation, TextFeatures

MEDIA_TYPES = {
    "json": "application/json", "png": "image/png", "overlay": "image/png", "npz": "application/x-npz",
    "coco": "application/json", "cvat": "application/xml", "cvat-masks": "application/zip",
    "label-studio": "application/json", "features": "application/vnd.safetensors",
}  # fmt: skip


def segmentation_answer(done: Segmentation, image: LoadedImage | None, format: str) -> bytes:
    """A result in one of the formats; the image is needed for an overlay only."""
    if format == "json":
        return plain_json(segmentation_document(done)).encode()
    if format == "overlay":
        if image is None:
            raise InputError("an overlay needs the image")
        return encode_png(done.overlay(image))
    if format in FORMATS:
        return export_bytes(done, format)
    return segmentation_bytes(done, f".{format}")


def segmentation_document(done: Segmentation) -> dict[str, Any]:
    """The JSON answer."""
    (height, width), annotations = done.size, done.to_coco()
    return {
        "width": width, "height": height, "names": list(done.names), "background": done.background,
        "shares": _shares(done, annotations), "annotations": annotations, "palette": done.palette.tolist(), "model": done.model,
        "info": done.info, "notes": done.info.get("notes", []), "understood": done.info.get("understood", []),
    }  # fmt: skip


def _shares(done: Segmentation, annotations: list[dict[str, Any]]) -> dict[str, float]:
    """:meth:`Segmentation.shares` from the areas of its annotations, which are counted already."""
    areas = {annotation["category_id"]: annotation["area"] for annotation in annotations}
    if done.background is not None:
        areas[done.background] = done.labels.size - sum(areas.values())
    order = sorted((index for index, area in areas.items() if area), key=lambda index: (-areas[index], index))
    return {done.names[index]: areas[index] / done.labels.size for index in order}


def encode_png(image: Image.Image) -> bytes:
    """A PNG, compressed quickly."""
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)
    return content.getvalue()


def picture(upload: bytes, image: LoadedImage) -> tuple[bytes, str]:
    """The image as it was read (rotation applied): JPEG for JPEG files, else PNG; and its media type."""
    from PIL import Image

    drawn, content = Image.fromarray(image.array), io.BytesIO()
    if upload.startswith(b"\xff\xd8"):
        drawn.save(content, "JPEG", quality=92, subsampling=0)
        return content.getvalue(), "image/jpeg"
    return encode_png(drawn), "image/png"


def features_file(features: ImageFeatures, method: Method) -> bytes:
    """What the page needs to label pixels by itself, as a safetensors file.

    attention (M, h, w) float32: CLS-row logits of the last block; only of methods with cleaning
    heads     (M, D) float32: sum_p softmax(attention_i)_p patch_p of each head, normalised; as attention
    patches   (h, w, D) float16: what words are compared with, not normalised
    """
    import torch
    from torch.nn.functional import normalize

    from talk2dino.stages.pooling import head_embeddings

    arrays: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        patches = method.compared_patches(features).float()
        if method.facts.can_clean and features.attention is not None:
            attention = features.attention.float()
            heads = head_embeddings(patches.flatten(1, 2), attention.flatten(2))[0]
            arrays["attention"] = attention[0].cpu().numpy()
            arrays["heads"] = normalize(heads, dim=-1, eps=1e-6).cpu().numpy()
        arrays["patches"] = patches[0].half().cpu().numpy()
    low, high = method.threshold_range
    seen = features.pixels.shape[2:] if features.pixels is not None else features.image_size
    about = {
        "image_size": "{} {}".format(*features.image_size), "seen_size": f"{seen[0]} {seen[1]}",
        "patch_size": str(method.patch_size), "model": method.towers.name, "method": method.name,
        "variant": str(method.options.get("variant", "")),
        "threshold": "" if method.threshold is None else repr(method.threshold),
        "threshold_range": f"{low:g} {high:g}", "space": method.space,
    }  # fmt: skip
    return safetensors_bytes(arrays, about)


def safetensors_bytes(arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> bytes:
    """A safetensors file of float32 and float16 arrays, in order. The library's own order differs from call to call, so
    that equal content would not have equal bytes.

    Source: github.com/huggingface/safetensors, "Format": 8 bytes length of the header, header (JSON), data.
    """
    header: dict[str, Any] = {"__metadata__": dict(about)}
    contents, start = [], 0
    for name, array in arrays.items():
        content = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        kind = {"float32": "F32", "float16": "F16"}[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, start + len(content)]}
        contents.append(content)
        start += len(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the arrays start at a multiple of 8
    return b"".join([len(text).to_bytes(8, "little"), text, *contents])


def text_document(text: TextFeatures) -> dict[str, Any]:
    """The JSON answer of ``POST /v1/text``: words as vectors."""
    import base64

    from talk2dino.io.palette import class_palette

    rows = text.embeddings.float().cpu().numpy().astype("<f4")
    return {
        "names": list(text.names), "negative": text.negative, "dim": int(rows.shape[1]),
        "embeddings": base64.b64encode(np.ascontiguousarray(rows).tobytes()).decode(), "notes": list(text.notes),
        "understood": [list(entry) for entry in getattr(text, "understood", ())],
        "palette": class_palette(text.names).tolist(),
    }  # fmt: skip


def dumps(document: Any) -> bytes:
    """JSON as UTF-8."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")
