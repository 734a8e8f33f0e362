"""COCO captions files and their image folders."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from talk2dino.captions.files import file_reader, printable
from talk2dino.captions.fingerprint import Fingerprint
from talk2dino.captions.index import TextList, hash64, is_repeated
from talk2dino.captions.json_lists import json_entries
from talk2dino.captions.source import CaptionSource, Numbered, Record, Skipped, Wanted, always, make_record
from talk2dino.errors import DataError

_EXPECTED = "expected 'images' (id, file_name) and 'annotations' (image_id, caption)"


class CocoSource(CaptionSource):
    """A COCO captions file (captions_train2014.json, captions_train2017.json) and its image folder.

    Images that only annotations name are records at the end, to be skipped with a reason. The index takes about 460
    bytes per image with five captions.
    """

    def __init__(self, file: Path, images: Path | None = None) -> None:
        self._ids, self._names, self._texts = TextList(), TextList(), TextList()
        image_ids, owners, annotations = array("Q"), array("Q"), array("Q")
        without_text = 0
        for name, entry in _entries(file):
            if name == "images":
                image_ids.append(hash64(_id(file, entry, "id")))
                self._ids.append(str(entry["id"]))
                self._names.append(entry["file_name"] if isinstance(entry["file_name"], str) else "")
            elif isinstance(entry["caption"], str):
                owners.append(hash64(_id(file, entry, "image_id")))
                self._texts.append(entry["caption"])
                annotations.append(hash64(repr((entry.get("id"), entry["image_id"], entry["caption"]))))
            else:
                without_text += 1
        if images is not None and not images.is_dir():
            raise DataError(f"--images {images} is not a folder; give the folder that holds the images of {file.name}")
        self._folder = images or _image_folder(file)
        repeated = is_repeated(annotations)
        self._index(file, np.asarray(image_ids, dtype=np.uint64), np.asarray(owners, dtype=np.uint64), repeated)
        counts = ((without_text, "have no text as their caption"), (int(repeated.sum()), "are repeated"))
        self.notes = [
            f"{file.name}: annotations left out because they {why}: {count:,}" for count, why in counts if count
        ]
        content = Fingerprint()
        content.add_file(file)
        for name in filter(None, self._names):
            content.add_size(self._folder, name)
        self.description = {
            "kind": "coco",
            "file": printable(file.name),
            "images": printable(self._folder.name),
            "records": len(self),
            "content": str(content),
        }

    def __len__(self) -> int:
        return len(self._ids)

    def _index(self, file: Path, image_ids: np.ndarray, owners: np.ndarray, repeated: np.ndarray) -> None:
        """Find the captions of each image, without repeated ones, and append the images that only captions name."""
        self._listed = len(image_ids)
        unlisted = set(np.setdiff1d(owners, image_ids).tolist())
        if unlisted:
            for name, entry in _entries(file):
                if name == "annotations" and (value := hash64(_id(file, entry, "image_id"))) in unlisted:
                    unlisted.discard(value)
                    self._ids.append(str(entry["image_id"]))
        order = np.argsort(owners, kind="stable")
        if repeated.any():
            order = order[~repeated[order]]
        self._order = order.astype(np.uint32)  # captions, those of one image side by side
        owners = owners[order]
        self._first = np.searchsorted(owners, image_ids, "left").astype(np.uint32)
        self._last = np.searchsorted(owners, image_ids, "right").astype(np.uint32)
        self._repeated = is_repeated(image_ids)

    def records(self, wanted: Wanted = always) -> Numbered:
        for number in filter(wanted, range(len(self))):
            yield number, self._record(number)

    def _record(self, number: int) -> Record | Skipped:
        key = self._ids[number]
        if number >= self._listed:
            return Skipped(key, "captions name an image that the file does not list")
        if self._repeated[number]:
            return Skipped(key, "repeated image id: its first entry is used")
        if not self._names[number]:
            return Skipped(key, "its file_name is empty")
        captions = [self._texts[place] for place in self._order[self._first[number] : self._last[number]].tolist()]
        return make_record(key, captions, file_reader(self._folder, self._names[number]))


def _entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("images" or "annotations", entry) in the order of the file."""
    found: set[str] = set()
    needed = {"images": ("id", "file_name"), "annotations": ("image_id", "caption")}
    for name, entry in json_entries(file, needed, found):
        if not isinstance(entry, dict):
            raise _not_coco(file, f"an entry of '{name}' is {entry!r:.40}")
        if missing := [field for field in needed[name] if field not in entry]:
            raise _not_coco(file, f"an entry of '{name}' lacks {', '.join(missing)}")
        yield name, entry
    if missing := [name for name in needed if name not in found]:
        raise _not_coco(file, f"it has no list {', '.join(missing)}")


def _id(file: Path, entry: dict[str, Any], field: str) -> str:
    """An id as text that distinguishes 1 from "1"."""
    if not isinstance(entry[field], int | str):
        raise _not_coco(file, f"{field} is {entry[field]!r:.40}")
    return repr(entry[field])


def _not_coco(file: Path, found: str) -> DataError:
    return DataError(f"{file} is not a COCO captions file: {found}; {_EXPECTED}")


def find_coco_images(file: Path) -> Path | None:
    """The image folder of .../annotations/captions_train2014.json, if it exists."""
    name = file.stem.removeprefix("captions_")
    candidates = [place / name for place in (file.parent.parent, file.parent.parent / "images", file.parent)]
    return next((place for place in [*candidates, file.parent / "images"] if place.is_dir()), None)


def _image_folder(file: Path) -> Path:
    if (found := find_coco_images(file)) is None:
        name = file.stem.removeprefix("captions_")
        raise DataError(f"no image folder {name} beside {file}; give it with --images FOLDER")
    return found
