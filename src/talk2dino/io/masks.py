"""Segmentations out and in again: palette PNG, NumPy archive, COCO JSON, outlines."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from talk2dino.errors import DataError, InputError
from talk2dino.io.atomic import write_atomically
from talk2dino.io.find import missing_file
from talk2dino.io.palette import class_palette
from talk2dino.io.polygons import label_rings
from talk2dino.io.rle import column_runs, compress, decode_rle, encode_rle, run_box, run_counts
from talk2dino.types import Segmentation

__all__ = ["decode_rle", "encode_rle", "load_segmentation", "save_segmentation", "to_coco", "to_polygons"]

ENDINGS = (".png", ".npz", ".json")
_CHUNK = "talk2dino"  # keyword of the PNG text chunk that holds names, background, model and info as JSON


def save_segmentation(seg: Segmentation, path: str | Path) -> Path:
    """Write a segmentation, whole or not at all, in the format that the ending names.

    - ``.png``: labels as palette indices (up to 256 names) or 16-bit grey (beyond); names, model and info as a text
      chunk. The smallest; scores are left out.
    - ``.npz``: labels, names, palette, scores if there are any, and a JSON string with the rest.
    - ``.json``: a COCO document (images, categories, annotations with compressed run lengths) plus names, shares,
      model and info.

    Raises:
        InputError: another ending, or labels that stand for no name.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    writers = {".png": _png, ".npz": _npz, ".json": _json}
    ending = path.suffix.lower()
    if ending not in writers:
        raise InputError(f"cannot save to {path.name}: the ending must be one of {', '.join(ENDINGS)}")
    low, high = int(seg.labels.min(initial=0)), int(seg.labels.max(initial=0))
    if low < 0 or high >= len(seg.names):
        raise InputError(f"labels {low}..{high} do not all stand for one of the {len(seg.names)} names")
    return write_atomically(path, writers[ending](seg))


def load_segmentation(path: str | Path) -> Segmentation:
    """Read what :func:`save_segmentation` wrote. A palette or grey PNG from elsewhere gets its numbers as names.

    Raises:
        ImageError: no such file.
        DataError: damaged, or not a segmentation.
    """
    path = Path(path)
    readers = {".png": _read_png, ".npz": _read_npz, ".json": _read_json}
    ending = path.suffix.lower()
    if ending not in readers:
        raise DataError(f"cannot load {path.name}: the ending must be one of {', '.join(ENDINGS)}")
    if not path.is_file():
        raise missing_file(path)
    try:
        return readers[ending](path.read_bytes())
    except (OSError, ValueError, KeyError, TypeError, IndexError, SyntaxError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a segmentation that can be read: {error}") from error


def to_coco(seg: Segmentation, image_id: int = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """One COCO annotation for each class that has pixels; the background has none.

    Args:
        image_id: the picture's number in the data set.
        category_ids: the number of each name (``len(seg.names)`` of them); by default its index.

    Returns:
        Annotations with id, image_id, category_id, segmentation (compressed run lengths, as pycocotools writes them),
        area in pixels, bbox [x, y, width, height] and iscrowd 0. Ids are unique over pictures with equally many names.
    """
    names = len(seg.names)
    if category_ids is not None and len(category_ids) != names:
        raise InputError(f"category_ids must have one number a name, {names}; got {len(category_ids)}")
    height, width = seg.size
    starts, lengths, values = column_runs(seg.labels)
    order = np.argsort(values, kind="stable")
    bounds = np.searchsorted(values[order], np.arange(names + 1))
    annotations = []
    for index in range(names):
        runs = order[bounds[index] : bounds[index + 1]]
        if index == seg.background or len(runs) == 0:
            continue
        first, length = starts[runs], lengths[runs]
        annotations.append({
            "id": image_id * names + index + 1,
            "image_id": image_id,
            "category_id": index if category_ids is None else int(category_ids[index]),
            "segmentation": {"size": [height, width], "counts": compress(run_counts(first, length, height * width))},
            "area": int(length.sum()),
            "bbox": run_box(first, length, height),
            "iscrowd": 0,
        })  # fmt: skip
    return annotations


def to_polygons(seg: Segmentation) -> dict[str, list[list[tuple[float, float]]]]:
    """Exact outlines of each class that has pixels, the background left out; see :func:`label_rings`.

    Returns:
        name -> closed rings of (x, y) pixel corners; holes are rings of their own, running the other way round.
    """
    outlines: dict[str, list[list[tuple[float, float]]]] = {}
    for index, rings in sorted(label_rings(seg.labels).items()):
        if index != seg.background:
            outlines.setdefault(seg.names[index], []).extend(rings)
    return outlines


def _about(seg: Segmentation) -> dict[str, Any]:
    return {"names": list(seg.names), "background": seg.background, "model": seg.model, "info": seg.info}


def _dumps(value: Any) -> str:
    def plain(other: Any) -> Any:
        if isinstance(other, np.ndarray | np.generic):
            return other.tolist()
        return str(other)

    return json.dumps(value, ensure_ascii=False, default=plain)


def _png(seg: Segmentation) -> bytes:
    count = len(seg.names)
    about = _about(seg)
    if count <= 256:
        image = Image.fromarray(np.ascontiguousarray(seg.labels, dtype=np.uint8), "L")
        image.putpalette(seg.palette.astype(np.uint8).tobytes())
    elif count <= 65536:
        image = Image.fromarray(np.ascontiguousarray(seg.labels, dtype=np.uint16))
        about["palette"] = seg.palette.tolist()
    else:
        raise InputError(f"a PNG holds at most 65,536 classes, not {count:,}; save as .npz")
    text = PngImagePlugin.PngInfo()
    text.add_itxt(_CHUNK, _dumps(about))
    content = io.BytesIO()
    # Run lengths are what label maps are made of: a third of the time of the usual strategy, and smaller files.
    bits = {"bits": 8} if count <= 256 else {}
    image.save(content, "PNG", pnginfo=text, compress_type=zlib.Z_RLE, **bits)
    return content.getvalue()


def _read_png(content: bytes) -> Segmentation:
    image = Image.open(io.BytesIO(content))
    if image.format != "PNG" or image.mode not in ("P", "L", "I;16", "I"):
        raise ValueError(f"expected a palette or grey PNG, got {image.format} {image.mode}")
    labels = np.array(image)
    labels = labels if labels.dtype == np.uint8 else labels.astype(np.int32)
    about = json.loads(getattr(image, "text", {}).get(_CHUNK, "{}"))
    names = tuple(about.get("names") or (str(i) for i in range(int(labels.max()) + 1)))
    background = about.get("background")
    if "palette" in about:
        palette = np.array(about["palette"], dtype=np.uint8)
    elif image.mode == "P":
        stored = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)[: len(names)]
        palette = np.concatenate([stored, class_palette(len(names))[len(stored) :]])
    else:
        palette = class_palette(len(names), background)
    return Segmentation(labels, names, palette, background, None, about.get("model", ""), about.get("info", {}))


def _npz(seg: Segmentation) -> bytes:
    arrays: dict[str, Any] = {"labels": seg.labels, "names": np.array(seg.names, dtype=np.str_), "palette": seg.palette}
    if seg.scores is not None:
        arrays["scores"] = seg.scores
    about = _about(seg)
    del about["names"]
    content = io.BytesIO()
    np.savez_compressed(content, about=np.array(_dumps(about)), **arrays)
    return content.getvalue()


def _read_npz(content: bytes) -> Segmentation:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        about = json.loads(str(stored["about"]))
        names = tuple(str(name) for name in stored["names"])
        scores = stored.get("scores")
        return Segmentation(
            stored["labels"], names, stored["palette"], about["background"], scores, about["model"], about["info"]
        )


def _json(seg: Segmentation) -> bytes:
    height, width = seg.size
    categories = [
        {"id": index, "name": name, "color": seg.palette[index].tolist()} for index, name in enumerate(seg.names)
    ]
    document = {
        "images": [{"id": 0, "width": width, "height": height}],
        "categories": categories,
        "annotations": to_coco(seg),
        "shares": seg.shares(),
        **_about(seg),
    }
    return (_dumps(document) + "\n").encode("utf-8")


def _read_json(content: bytes) -> Segmentation:
    document = json.loads(content)
    size = document["images"][0]
    background = document["background"]
    labels = np.full((size["height"], size["width"]), background or 0, dtype=np.int32)
    for annotation in document["annotations"]:
        labels[decode_rle(annotation["segmentation"])] = annotation["category_id"]
    palette = np.array([category["color"] for category in document["categories"]], dtype=np.uint8)
    return Segmentation(
        labels, tuple(document["names"]), palette, background, None, document["model"], document["info"]
    )
