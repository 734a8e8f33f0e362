"""The published feature files (.pth dictionaries with 'images' and 'annotations') into a feature store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from talk2dino.captions.source import Skipped
from talk2dino.errors import DataError
from talk2dino.features.manifest import Manifest, checksum
from talk2dino.features.writer import ShardContents, StoreWriter
from talk2dino.io.lock import folder_lock

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
    tell: Callable[[str], None] | None = None,
) -> Manifest:
    """Write a store from a published .pth of features.

    Args:
        file: a pickled dictionary; read with ``weights_only=True``, memory-mapped where the file allows it.
        model: which model made the features, for the manifest: the file does not say.
        names: feature -> key in the file, where it is not one of :data:`PUBLISHED_NAMES`; "captions" for the text.
        tell: called with a sentence for what could not be taken over, such as captions of a picture that is not there.

    Raises:
        DataError: not such a file (the keys that it has are named), or entries without what every entry needs.
    """
    file = Path(file)
    content = _read(file)
    images, annotations = _entries(file, content)
    keys = _find_keys(file, images[0], annotations[0], dict(names or {}))
    captions, lost = _captions(images, annotations, keys["captions"])
    features = [name for name in keys if name != "captions"]
    first = {name: _tensor(file, images[0], keys[name]) for name in features}
    heads = first["heads"].shape[0] if "heads" in first else 0
    manifest = Manifest(
        {"name": model},
        {"published": True},
        sorted(features),
        heads,
        first[features[0]].shape[-1],
        _tensor(file, annotations[0], keys["captions"]).numel(),
        {"kind": "published", "file": file.name, "records": len(images), "content": checksum(file)[:16]},
        records_per_shard,
    )
    with folder_lock(Path(out)):
        writer = StoreWriter(Path(out), manifest)
        if tell is not None:
            for note in [*lost, *writer.redone_notes()]:
                tell(note)
        place_of = {image["id"]: place for place, image in reversed(list(enumerate(images)))}
        for start in range(0, len(images), records_per_shard):
            number = start // records_per_shard
            piece = images[start : start + records_per_shard]
            again = [place_of[image["id"]] < place for place, image in enumerate(piece, start)]
            if number not in writer.done:
                writer.write(_shard(file, number, start, piece, again, captions, keys, first, manifest.text_dim))
        if not manifest.images:
            raise DataError(f"not one of {len(images)} pictures can be used; {writer.folder}/skipped.jsonl says why")
        return writer.finish()


def _read(file: Path) -> dict[str, Any]:
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
    return content


def _entries(file: Path, content: dict[str, Any]) -> tuple[list[dict], list[dict]]:
    """The two lists of entries, each entry with the id that ties them together."""
    for name, field in (("images", "id"), ("annotations", "image_id")):
        entries = content[name]
        if not isinstance(entries, (list, tuple)):
            raise DataError(
                f"{file} is not a published feature file: '{name}' must be a list of entries, got "
                f"{type(entries).__name__}; make it list(content['{name}'].values()) if the entries are its values"
            )
        for place, entry in enumerate(entries):
            if not isinstance(entry, dict) or not isinstance(entry.get(field), (int, str)):
                got = ", ".join(map(str, entry))[:200] if isinstance(entry, dict) else type(entry).__name__
                raise DataError(f"{file}: '{name}' number {place} has no {field} (a number or a text); it has {got}")
    return list(content["images"]), list(content["annotations"])


def _captions(
    images: list[dict], annotations: list[dict], key: str
) -> tuple[dict[Any, list[dict[str, Any]]], list[str]]:
    """The captions of each picture, and what could not be taken over."""
    known = {image["id"] for image in images}
    captions: dict[Any, list[dict[str, Any]]] = {}
    strangers = bare = again = 0
    seen: set[Any] = set()
    for entry in annotations:
        if entry["image_id"] not in known:
            strangers += 1
        elif entry.get(key) is None:
            bare += 1
        elif entry.get("id") is not None and (entry["image_id"], entry["id"]) in seen:
            again += 1
        else:
            seen.add((entry["image_id"], entry.get("id")))
            captions.setdefault(entry["image_id"], []).append(entry)
    counted = ((strangers, "of pictures that are not in it"), (bare, f"without {key}"), (again, "listed twice"))
    return captions, [f"{count} annotations {what} are left out" for count, what in counted if count]


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
    file: Path,
    number: int,
    start: int,
    images: list[dict],
    again: list[bool],
    captions: dict[Any, list[dict[str, Any]]],
    keys: dict[str, str],
    first: dict[str, Tensor],
    text_dim: int,
) -> ShardContents:
    contents = ShardContents(number)
    for place, image in enumerate(images):
        key = str(image.get("file_name", image["id"]))
        told = captions.get(image["id"], [])
        features = {
            name: _tensor(file, image, keys[name]).half() for name in first if image.get(keys[name]) is not None
        }
        texts = [_tensor(file, entry, keys["captions"]).half().flatten() for entry in told]
        reason = "a picture of this id was there before: the first is used" if again[place] else None
        reason = reason or _why_not(features, texts, first, text_dim)
        if reason:
            contents.skipped.append((start + place, Skipped(key, reason)))
            continue
        embeddings = torch.stack(texts)
        rows = {name: value.unsqueeze(0) for name, value in features.items()}
        contents.add(rows, [key], [[str(entry.get("caption", "")) for entry in told]], embeddings)
    return contents


def _why_not(features: dict[str, Tensor], texts: list[Tensor], first: dict[str, Tensor], text_dim: int) -> str | None:
    """Why a picture cannot be used, or None."""
    wrong = [name for name, value in first.items() if name not in features or features[name].shape != value.shape]
    if wrong:
        return f"no {', '.join(wrong)} of the first picture's shape"
    if not texts:
        return "no caption"
    if widths := sorted({len(text) for text in texts} - {text_dim}):
        return f"captions of width {', '.join(map(str, widths))}, the first one's is {text_dim}"
    values = {**features, "captions": torch.cat(texts)}
    if bad := [name for name, value in values.items() if not bool(torch.isfinite(value).all())]:
        return f"{', '.join(bad)} not finite, or beyond what float16 can hold (65504)"
    return None


def _tensor(file: Path, entry: dict, key: str) -> Tensor:
    try:
        tensor = torch.as_tensor(entry[key])
    except (TypeError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{file}: {key} of entry {entry.get('id')} is not an array of numbers ({said})") from None
    return tensor.squeeze(0) if tensor.ndim > 1 and tensor.shape[0] == 1 else tensor
