"""The published feature files (.pth dictionaries with 'images' and 'annotations') into a feature store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talk2dino.errors import DataError
from talk2dino.training.captions import Skipped
from talk2dino.training.manifest import Manifest
from talk2dino.training.shards import ShardContents, StoreWriter

#: our feature -> what the published extraction scripts call it.
PUBLISHED_NAMES: dict[str, tuple[str, ...]] = {
    "heads": ("disentangled_self_attn",),  # (M, D)
    "average": ("avg_self_attn_out",),  # (D,)
    "cls": ("dino_features",),  # (D,)
    "patch_mean": ("avg_patch_tokens", "mean_patch_tokens"),  # (D,)
}
CAPTION_NAMES = ("ann_feats",)  # (C,)


def convert_published(
    file: str | Path,
    out: str | Path,
    *,
    model: str,
    names: Mapping[str, str] | None = None,
    records_per_shard: int = 2048,
) -> Manifest:
    """Write a store from a published .pth of features.

    Args:
        file: a pickled dictionary; read with ``weights_only=True``, memory-mapped where the file allows it.
        model: which model made the features, for the manifest: the file does not say.
        names: feature -> key in the file, where it is not one of :data:`PUBLISHED_NAMES`; "captions" for the text.

    Raises:
        DataError: not such a file (the keys that it has are named), or pictures without captions.
    """
    file = Path(file)
    images, annotations = _read(file)
    keys = _find_keys(file, images[0], annotations[0], dict(names or {}))
    captions: dict[Any, list[dict[str, Any]]] = {}
    for entry in annotations:
        captions.setdefault(entry["image_id"], []).append(entry)
    features = [name for name in keys if name != "captions"]
    first = {name: _tensor(images[0][keys[name]]) for name in features}
    heads = first["heads"].shape[0] if "heads" in first else 0
    manifest = Manifest(
        {"name": model},
        {"published": True},
        features,
        heads,
        first[features[0]].shape[-1],
        _tensor(annotations[0][keys["captions"]]).shape[-1],
        {"kind": "published", "file": file.name, "records": len(images)},
        records_per_shard,
    )
    writer = StoreWriter(Path(out), manifest)
    for start in range(0, len(images), records_per_shard):
        number = start // records_per_shard
        if number not in writer.done:
            piece = images[start : start + records_per_shard]
            writer.write(_shard(number, start, piece, captions, keys, first))
    return writer.finish()


def _read(file: Path) -> tuple[list[dict], list[dict]]:
    with torch.serialization.safe_globals(_numpy_arrays()):
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
        except FileNotFoundError:
            raise DataError(f"no file {file}") from None
        except Exception as error:  # torch raises half a dozen kinds
            raise DataError(f"{file} is damaged, or holds more than tensors and numbers, which is refused") from error
    if not isinstance(content, dict) or not content.get("images") or not content.get("annotations"):
        found = ", ".join(map(str, content))[:200] if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{file} is not a published feature file: expected 'images' and 'annotations', got {found}")
    return content["images"], content["annotations"]


def _numpy_arrays() -> list[Any]:
    """What an unpickled numpy array of numbers is made of; nothing of it can run code."""
    core = np._core if hasattr(np, "_core") else np.core  # type: ignore[attr-defined]
    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8")]
    return [np.ndarray, np.dtype, core.multiarray._reconstruct, core.multiarray.scalar, *kinds]


def _is_zip(file: Path) -> bool:
    with open(file, "rb") as opened:
        return opened.read(2) == b"PK"


def _find_keys(file: Path, image: dict, annotation: dict, names: dict[str, str]) -> dict[str, str]:
    keys = {
        name: key
        for name, known in PUBLISHED_NAMES.items()
        for key in ([names[name]] if name in names else known)
        if key in image
    }
    text = next(
        (key for key in ([names["captions"]] if "captions" in names else CAPTION_NAMES) if key in annotation), None
    )
    missing = [f"{name}={key}" for name, key in names.items() if name != "captions" and key not in image]
    if not keys or text is None or missing:
        raise DataError(
            f"{file}: {'no ' + ', '.join(missing) if missing else 'features not found'}; an image has "
            f"{', '.join(map(str, image))}, an annotation {', '.join(map(str, annotation))}; say which is which with "
            "--name heads=KEY, --name captions=KEY"
        )
    return {**keys, "captions": text}


def _shard(
    number: int,
    start: int,
    images: list[dict],
    captions: dict[Any, list[dict[str, Any]]],
    keys: dict[str, str],
    first: dict[str, Tensor],
) -> ShardContents:
    contents = ShardContents(number)
    for place, image in enumerate(images):
        told = captions.get(image["id"], [])
        key = str(image.get("file_name", image["id"]))
        features = {name: _tensor(image[keys[name]]).half().unsqueeze(0) for name in first if keys[name] in image}
        wrong = [
            name for name, value in first.items() if name not in features or features[name].shape[1:] != value.shape
        ]
        if wrong or not told:
            reason = f"no {', '.join(wrong)} of the first picture's shape" if wrong else "no caption"
            contents.skipped.append((start + place, Skipped(key, reason)))
            continue
        embeddings = torch.stack([_tensor(entry[keys["captions"]]).half().flatten() for entry in told])
        contents.add(features, [key], [[str(entry.get("caption", "")) for entry in told]], embeddings)
    return contents


def _tensor(value: Any) -> Tensor:
    tensor = torch.as_tensor(value)
    return tensor.squeeze(0) if tensor.ndim > 1 and tensor.shape[0] == 1 else tensor
