"""Published feature files to a feature store.

Two layouts of the published extraction scripts are read, both pickled dictionaries of tensors:

- a .pth file with the lists 'images' and 'annotations', tied together by the image's id;
- a webdataset .tar with one NAME.pth per image, which holds the fields of the image and of one of its captions. A data set
  in several .tar files becomes several stores, which ``train`` uses together.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from talk2dino.captions import Skipped
from talk2dino.errors import DataError, InputError, Talk2DinoWarning, suggestion
from talk2dino.features.manifest import Manifest, checksum
from talk2dino.features.writer import ShardContents, StoreWriter
from talk2dino.io.lock import folder_lock
from talk2dino.progress import ProgressCallback

#: our feature -> its keys in the published files.
PUBLISHED_NAMES: dict[str, tuple[str, ...]] = {
    "heads": ("disentangled_self_attn",),  # (M, D)
    "average": ("avg_self_attn_out",),  # (D,)
    "cls": ("dino_features",),  # (D,)
    "patch_mean": ("avg_patch_tokens", "mean_patch_tokens"),  # (D,)
}
CAPTION_NAMES = ("ann_feats", "text_features")  # (C,)
#: Fields that a store does not need.
LARGE = ("patch_tokens", "self_attn_maps")
Entry = dict[str, Any]


def convert_published(
    file: str | Path,
    out: str | Path,
    *,
    model: str,
    names: Mapping[str, str] | None = None,
    records_per_shard: int = 2048,
    progress: ProgressCallback | None = None,
) -> Manifest:
    """Write a store from a published file of features. No code in the file is run.

    Images that cannot be used are listed in skipped.jsonl; annotations that cannot be used are counted in a warning.

    Args:
        model: name of the model that made the features, for the manifest; the file does not record it.
        names: feature -> key in the file, where it is not one of :data:`PUBLISHED_NAMES`; "captions" for the text.

    Raises:
        InputError: ``names`` has an unknown feature.
        DataError: the file is missing, damaged or of another layout; or entries lack what every entry needs.
        OutputError: ``out`` cannot be written, or another run is writing to it.
    """
    file, out = Path(file), Path(out)
    published = _Published.read(file, dict(names or {}))
    manifest = Manifest(
        {"name": model},
        {"published": True},
        sorted(published.first),
        published.first["heads"].shape[0] if "heads" in published.first else 0,
        next(iter(published.first.values())).shape[-1],
        published.text_dim,
        {"kind": "published", "file": file.name, "records": len(published.images), "content": checksum(file)[:16]},
        records_per_shard,
    )
    with folder_lock(out):
        writer = StoreWriter(out, manifest)
        for note in [*(f"{file}: {note}" for note in published.notes), *writer.notes]:
            warnings.warn(note, Talk2DinoWarning, stacklevel=2)
        for start in range(0, len(published.images), records_per_shard):
            number = start // records_per_shard
            if number not in writer.done:
                writer.write(published.shard(number, range(start, start + records_per_shard)))
            if progress is not None:
                progress(min(start + records_per_shard, len(published.images)), len(published.images))
        if not manifest.images:
            raise DataError(f"none of the {len(published.images)} images can be used; see {writer.skipped.path}")
        return writer.finish()


@dataclass(frozen=True)
class _Published:
    """The contents of a published file."""

    file: Path
    images: list[Entry]  # in the order of the file
    captions: dict[Any, list[Entry]]  # image id -> its annotations
    keys: dict[str, str]  # our feature -> its key in the file; "captions" for the text
    first: dict[str, Tensor]  # the features of the first image, whose shapes all others must have
    text_dim: int  # C, of the first annotation
    notes: list[str]  # what cannot be used, one sentence each

    @classmethod
    def read(cls, file: Path, names: dict[str, str]) -> _Published:
        if not file.is_file():
            raise DataError(f"there is no file {file}")
        images, annotations = _read_tar(file) if tarfile.is_tarfile(file) else _read_lists(file)
        keys = _find_keys(file, images[0], annotations[0], names)
        captions, notes = _captions(images, annotations, keys["captions"])
        first = {name: _tensor(file, images[0], keys[name]) for name in keys if name != "captions"}
        text_dim = _tensor(file, annotations[0], keys["captions"]).numel()
        return cls(file, images, captions, keys, first, text_dim, notes)

    def shard(self, number: int, places: range) -> ShardContents:
        """The images at some places of the file as one shard."""
        contents = ShardContents(number)
        known = {image["id"] for image in self.images[: places.start]}
        for place, image in enumerate(self.images[places.start : places.stop], places.start):
            key = str(image.get("file_name", image["id"]))
            entries = self.captions[image["id"]]
            given = [name for name in self.first if image.get(self.keys[name]) is not None]
            features = {name: _tensor(self.file, image, self.keys[name]).half() for name in given}
            texts = [_tensor(self.file, entry, self.keys["captions"]).half().flatten() for entry in entries]
            repeated = "an earlier image has the same id" if image["id"] in known else None
            known.add(image["id"])
            if reason := repeated or self._unusable(features, texts):
                contents.skipped.append((place, Skipped(key, reason)))
            else:
                rows = {name: value.unsqueeze(0) for name, value in features.items()}
                contents.add(rows, [key], [[str(entry.get("caption", "")) for entry in entries]], torch.stack(texts))
        return contents

    def _unusable(self, features: dict[str, Tensor], texts: list[Tensor]) -> str | None:
        """Why an image cannot be used, or None."""
        shapes = {name: value.shape for name, value in features.items()}
        if wrong := [name for name, value in self.first.items() if shapes.get(name) != value.shape]:
            return f"{', '.join(wrong)} missing or not of the first image's shape"
        if not texts:
            return "no caption"
        if widths := sorted({len(text) for text in texts} - {self.text_dim}):
            return f"captions of {', '.join(map(str, widths))} dimensions, expected {self.text_dim}"
        values = {**features, "captions": torch.cat(texts)}
        if bad := [name for name, value in values.items() if not bool(torch.isfinite(value).all())]:
            return f"{', '.join(bad)} not finite, or beyond what float16 can hold (65504)"
        return None


def _read_lists(file: Path) -> tuple[list[Entry], list[Entry]]:
    with open(file, "rb") as opened:
        is_zip = opened.read(2) == b"PK"  # torch's format since version 1.6, the one that can be memory-mapped
    content = _load(file, str(file), mmap=is_zip)
    if not isinstance(content, dict) or not content.get("images") or not content.get("annotations"):
        raise DataError(
            f"{file} is not a published feature file: expected a .pth with 'images' and 'annotations', or a webdataset .tar "
            f"of .pth files; got {_kind(content)}"
        )
    for name, field in (("images", "id"), ("annotations", "image_id")):
        if not isinstance(content[name], (list, tuple)):
            raise DataError(f"{file}: '{name}' must be a list of entries; got {type(content[name]).__name__}")
        for place, entry in enumerate(content[name]):
            _check_entry(f"{file}: entry {place} of '{name}'", entry, field)
    return list(content["images"]), list(content["annotations"])


def _read_tar(file: Path) -> tuple[list[Entry], list[Entry]]:
    """A webdataset .tar of .pth files; each entry is an image and its annotation at once."""
    entries = []
    try:
        with tarfile.open(file) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.name.endswith(".pth") else None
                if content is not None:
                    entry = _load(io.BytesIO(content.read()), f"{file}, {member.name}")
                    _check_entry(f"{file}, {member.name}", entry, "image_id")
                    entries.append({name: entry[name] for name in entry if name not in LARGE})
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{file} is damaged ({error})") from None
    if not entries:
        raise DataError(
            f"{file} holds no .pth files with features; a .tar of images and captions is a source of 'talk2dino extract'"
        )
    return [{**entry, "id": entry["image_id"]} for entry in entries], entries


def _load(file: Path | IO[bytes], name: str, *, mmap: bool = False) -> Any:
    with torch.serialization.safe_globals(_numpy_arrays()):
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
        except Exception as error:  # torch raises many kinds of errors for a damaged file
            foreign = isinstance(error, pickle.UnpicklingError)
            reason = ", or holds objects other than tensors and numbers; they are not loaded"
            raise DataError(f"{name} is damaged{reason if foreign else f' ({type(error).__name__})'}") from None


def _numpy_arrays() -> list[Any]:
    """What a pickled numpy array of numbers consists of; none of it can run code."""
    core = np._core if hasattr(np, "_core") else np.core  # type: ignore[attr-defined]
    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8")]
    return [np.ndarray, np.dtype, core.multiarray._reconstruct, core.multiarray.scalar, *kinds]


def _check_entry(name: str, entry: Any, field: str) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get(field), (int, str)):
        raise DataError(f"{name} has no {field} (a number or a string); got {_kind(entry)}")


def _kind(value: Any) -> str:
    """The keys of a dictionary, or the type of anything else."""
    return ", ".join(map(str, value))[:200] if isinstance(value, dict) else type(value).__name__


def _captions(images: list[Entry], annotations: list[Entry], key: str) -> tuple[dict[Any, list[Entry]], list[str]]:
    """The captions of each image, and what cannot be used."""
    captions: dict[Any, list[Entry]] = {image["id"]: [] for image in images}
    unused = dict.fromkeys(("of images that are not in the file", f"without {key}", "listed twice"), 0)
    foreign, bare, repeated = unused
    seen: set[Any] = set()
    for entry in annotations:
        identity = (entry["image_id"], entry.get("id"))
        if entry["image_id"] not in captions:
            unused[foreign] += 1
        elif entry.get(key) is None:
            unused[bare] += 1
        elif entry.get("id") is not None and identity in seen:
            unused[repeated] += 1
        else:
            seen.add(identity)
            captions[entry["image_id"]].append(entry)
    return captions, [
        f"left out {count} annotation{'s' * (count > 1)} {what}" for what, count in unused.items() if count
    ]


def _find_keys(file: Path, image: Entry, annotation: Entry, names: dict[str, str]) -> dict[str, str]:
    known = {**PUBLISHED_NAMES, "captions": CAPTION_NAMES}
    for name, key in names.items():
        if name not in known:
            raise InputError(f"unknown feature {name!r}; one of: {', '.join(known)}{suggestion(name, known)}")
        known[name] = (key,)
    texts = [key for key in known.pop("captions") if key in annotation]
    keys = {name: key for name, candidates in known.items() for key in candidates if key in image}
    missing = [f"{name}={key}" for name, key in names.items() if name != "captions" and key not in image]
    if not keys or not texts or missing:
        raise DataError(
            f"{file}: {'no ' + ', '.join(missing) if missing else 'features not found'}; an image has "
            f"{', '.join(map(str, image))}; an annotation has {', '.join(map(str, annotation))}. Name the keys with --name "
            "heads=KEY and --name captions=KEY"
        )
    return {**keys, "captions": texts[0]}


def _tensor(file: Path, entry: Entry, key: str) -> Tensor:
    try:
        tensor = torch.as_tensor(entry[key])
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file}: {key} of entry {entry.get('id')} is not an array of numbers ({reason})") from None
    return tensor.squeeze(0) if tensor.ndim > 1 and tensor.shape[0] == 1 else tensor
