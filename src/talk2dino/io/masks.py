"""Write and read segmentations: palette PNG, NumPy archive, COCO JSON; outlines as polygons."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, PngImagePlugin

from talk2dino.errors import DataError, InputError
from talk2dino.io.atomic import write_atomically
from talk2dino.io.find import missing_file
from talk2dino.io.names import readable
from talk2dino.io.palette import class_palette
from talk2dino.io.polygons import label_rings
from talk2dino.io.rle import column_runs, compress, decode_rle, run_box, run_counts

if TYPE_CHECKING:
    from talk2dino.types import Segmentation


_CHUNK = "talk2dino"  # keyword of the PNG text chunk that holds names, background, model and info as JSON


def save_segmentation(seg: Segmentation, path: str | Path) -> Path:
    """Write a segmentation, whole or not at all. The suffix of ``path`` selects the format:

    - ``.png``: labels as palette indices (up to 256 names) or 16-bit grey (more); names, model and info as a text chunk.
      The smallest file; scores are left out.
    - ``.npz``: labels, names, palette, scores if there are any, and a JSON string with the rest.
    - ``.json``: a COCO document (images, categories, annotations with compressed run lengths) plus names, shares, model
      and info.

    Raises:
        InputError: any other suffix, or a label without a name.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"cannot save to {_refusal(path)}")
    return write_atomically(path, segmentation_bytes(seg, path.suffix.lower()))


def segmentation_bytes(seg: Segmentation, suffix: str) -> bytes:
    """What :func:`save_segmentation` writes to a file with this suffix: ".png", ".npz" or ".json".

    Raises:
        InputError: a label without a name.
    """
    low, high = int(seg.labels.min(initial=0)), int(seg.labels.max(initial=0))
    if low < 0 or high >= len(seg.names):
        raise InputError(f"labels {low}..{high} do not all stand for one of the {len(seg.names)} names")
    write, _ = _FORMATS[suffix]
    return write(seg)


def _refusal(path: Path) -> str:
    return f"{readable(path.name)}: the suffix must be one of {', '.join(_FORMATS)}"


def read_segmentation(path: str | Path) -> dict[str, Any]:
    """Read the fields of a segmentation. A palette or grey PNG from elsewhere gets its numbers as names.

    Raises:
        ImageError: no such file.
        DataError: the file is damaged or holds no segmentation.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise DataError(f"cannot load {_refusal(path)}")
    if not path.is_file():
        raise missing_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{readable(path)} cannot be read: {error}") from error
    return parse_segmentation(content, path.suffix.lower(), readable(path))


def parse_segmentation(content: bytes, suffix: str, name: str) -> dict[str, Any]:
    """Read the fields of a segmentation from what :func:`segmentation_bytes` made; ``name`` is for messages.

    Raises:
        DataError: the content is damaged or holds no segmentation.
    """
    _, read = _FORMATS[suffix]
    try:
        return read(content)
    except (OSError, ValueError, KeyError, TypeError, IndexError, SyntaxError, zipfile.BadZipFile) as error:
        raise DataError(f"{name} is not a segmentation that can be read: {error}") from error


def to_coco(seg: Segmentation, image_id: int = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """One COCO annotation per class that has pixels; the background has none.

    Args:
        category_ids: one number per name; by default its index.

    Returns:
        Annotations with compressed run lengths as pycocotools writes them, area in pixels and bbox [x, y, width, height].
        Ids are unique across images with equally many names.
    """
    names = len(seg.names)
    if category_ids is not None and len(category_ids) != names:
        raise InputError(f"category_ids must have one number per name ({names}); got {len(category_ids)}")
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
    """Exact outlines of each class that has pixels, except the background; see :func:`label_rings`.

    Returns:
        name -> closed rings of (x, y) pixel corners; a hole is a separate ring in the opposite direction.
    """
    outlines: dict[str, list[list[tuple[float, float]]]] = {}
    for index, rings in sorted(label_rings(seg.labels).items()):
        if index != seg.background:
            outlines.setdefault(seg.names[index], []).extend(rings)
    return outlines


def _about(seg: Segmentation) -> dict[str, Any]:
    return {"names": list(seg.names), "background": seg.background, "model": seg.model, "info": seg.info}


def plain_json(value: dict[str, Any]) -> str:
    """JSON of values that may hold arrays and paths."""

    def plain(other: object) -> Any:
        return other.tolist() if isinstance(other, np.ndarray | np.generic) else str(other)

    text = json.dumps(value, ensure_ascii=False, default=plain)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # file names that are not UTF-8


def _png(seg: Segmentation) -> bytes:
    count = len(seg.names)
    about = _about(seg)
    if count <= 256:
        image = Image.fromarray(np.ascontiguousarray(seg.labels, dtype=np.uint8))
        image.putpalette(seg.palette.astype(np.uint8).tobytes())
    elif count <= 65536:
        image = Image.fromarray(np.ascontiguousarray(seg.labels, dtype=np.uint16))
        about["palette"] = seg.palette.tolist()
    else:
        raise InputError(f"a PNG holds at most 65,536 classes, not {count:,}; save as .npz")
    text = PngImagePlugin.PngInfo()
    text.add_itxt(_CHUNK, plain_json(about))
    content = io.BytesIO()
    # Label maps are made of runs: a third of the time of the default strategy, and smaller files.
    bits = {"bits": 8} if count <= 256 else {}
    image.save(content, "PNG", pnginfo=text, compress_type=zlib.Z_RLE, **bits)
    return content.getvalue()


def _read_png(content: bytes) -> dict[str, Any]:
    image = Image.open(io.BytesIO(content))
    if image.format != "PNG" or image.mode not in ("P", "L", "I;16", "I"):
        raise ValueError(f"expected a palette or grey PNG, got {image.format} {image.mode}")
    labels = np.array(image)
    labels = labels if labels.dtype == np.uint8 else labels.astype(np.int32)
    about = {"names": None, "background": None} | json.loads(getattr(image, "text", {}).get(_CHUNK, "{}"))
    names = about["names"] = tuple(about["names"] or map(str, range(int(labels.max()) + 1)))
    palette = np.array(about.pop("palette", []), dtype=np.uint8).reshape(-1, 3)
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)[: len(names)]
    rest = class_palette(names, about["background"])[len(palette) :]
    return {"labels": labels, "palette": np.concatenate([palette, rest]), **about}


def _npz(seg: Segmentation) -> bytes:
    arrays: dict[str, Any] = {"labels": seg.labels, "names": np.array(seg.names, dtype=np.str_), "palette": seg.palette}
    if seg.scores is not None:
        arrays["scores"] = seg.scores
    about = _about(seg)
    del about["names"]
    content = io.BytesIO()
    np.savez_compressed(content, about=np.array(plain_json(about)), **arrays)
    return content.getvalue()


def _read_npz(content: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in ("labels", "palette", "scores") if name in stored}
        return {**arrays, "names": tuple(map(str, stored["names"])), **json.loads(str(stored["about"]))}


def _json(seg: Segmentation) -> bytes:
    height, width = seg.size
    colours = seg.palette.tolist()
    document = {
        "images": [{"id": 0, "width": width, "height": height}],
        "categories": [{"id": i, "name": name, "color": colours[i]} for i, name in enumerate(seg.names)],
        "annotations": to_coco(seg),
        "shares": seg.shares(),
        **_about(seg),
    }
    return (plain_json(document) + "\n").encode("utf-8")


def _read_json(content: bytes) -> dict[str, Any]:
    document = json.loads(content)
    size = document["images"][0]
    labels = np.full((size["height"], size["width"]), document["background"] or 0, dtype=np.int32)
    for annotation in document["annotations"]:
        labels[decode_rle(annotation["segmentation"])] = annotation["category_id"]
    palette = np.array([category["color"] for category in document["categories"]], dtype=np.uint8)
    about = {name: document[name] for name in ("background", "model", "info")}
    return {"labels": labels, "names": tuple(document["names"]), "palette": palette, **about}


_FORMATS: dict[str, tuple[Callable[[Segmentation], bytes], Callable[[bytes], dict[str, Any]]]] = {
    ".png": (_png, _read_png), ".npz": (_npz, _read_npz), ".json": (_json, _read_json),
}  # fmt: skip
