"""COCO captions files and their image folders."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from talk2dino.captions.files import Fingerprint, file_reader, printable
from talk2dino.captions.index import TextGroups, TextList, hash64, is_repeated
from talk2dino.captions.json_lists import json_entries
from talk2dino.captions.source import IndexedSource, Record, Skipped, make_record
from talk2dino.errors import DataError

#: The lists that are read, and the fields of their entries, the id of an image first.
_FIELDS = {"images": ("id", "file_name"), "annotations": ("image_id", "caption")}


class CocoSource(IndexedSource):
    """A COCO captions file (captions_train2014.json, captions_train2017.json) and its image folder.

    Images that only annotations name are records at the end, to be skipped with a reason. The index takes about 500
    bytes per image with five captions.
    """

    def __init__(self, file: Path, images: Path | None = None) -> None:
        self._keys, self._names, captions, owner_keys = TextList(), TextList(), TextList(), TextList()
        self._image_ids, owners, annotations = array("Q"), array("Q"), array("Q")
        without_text = 0
        for name, entry in _entries(file):
            if name == "images":
                self._image_ids.append(hash64(repr(entry["id"])))  # 1 and "1" are different ids
                self._keys.append(str(entry["id"]))
                self._names.append(entry["file_name"] if isinstance(entry["file_name"], str) else "")
            elif isinstance(entry["caption"], str):
                owners.append(hash64(repr(entry["image_id"])))
                owner_keys.append(str(entry["image_id"]))
                captions.append(entry["caption"])
                annotations.append(hash64(repr((entry.get("id"), entry["image_id"], entry["caption"]))))
            else:
                without_text += 1
        if images is not None and not images.is_dir():
            raise DataError(f"--images {images} is not a folder; give the folder that holds the images of {file.name}")
        if (folder := images or find_coco_images(file)) is None:
            name = file.stem.removeprefix("captions_")
            raise DataError(f"no image folder {name} beside {file}; give it with --images FOLDER")
        self._folder = folder
        unlisted = ~np.isin(owners, self._image_ids) & ~is_repeated(owners)
        for place in np.flatnonzero(unlisted).tolist():
            self._keys.append(owner_keys[place])
        repeated = is_repeated(annotations)
        self._captions = TextGroups(captions, owners, ~repeated)
        self._repeated = is_repeated(self._image_ids)
        counts = ((without_text, "have no text as their caption"), (int(repeated.sum()), "are repeated"))
        self.notes = [
            f"{file.name}: annotations left out because they {why}: {count:,}" for count, why in counts if count
        ]
        content = Fingerprint()
        content.add_file(file)
        for name in filter(None, self._names):
            content.add_size(folder, name)
        self.describe("coco", content, file=printable(file.name), images=printable(folder.name))

    def __len__(self) -> int:
        return len(self._keys)

    def record(self, number: int) -> Record | Skipped:
        key = self._keys[number]
        if number >= len(self._names):
            return Skipped(key, "captions name an image that the file does not list")
        if self._repeated[number]:
            return Skipped(key, "repeated image id: its first entry is used")
        if not (name := self._names[number]):
            return Skipped(key, "its file_name is empty")
        return make_record(key, self._captions[self._image_ids[number]], file_reader(self._folder, name))


def _entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("images" or "annotations", entry) in the order of the file."""

    def refused(found: str) -> DataError:
        expected = " and ".join(f"'{name}' ({', '.join(fields)})" for name, fields in _FIELDS.items())
        return DataError(f"{file} is not a COCO captions file: {found}; expected {expected}")

    found: set[str] = set()
    for name, entry in json_entries(file, _FIELDS, found):
        if not isinstance(entry, dict):
            raise refused(f"an entry of '{name}' is {entry!r:.40}")
        if missing := [field for field in _FIELDS[name] if field not in entry]:
            raise refused(f"an entry of '{name}' lacks {', '.join(missing)}")
        field = _FIELDS[name][0]
        if not isinstance(entry[field], int | str):
            raise refused(f"{field} is {entry[field]!r:.40}")
        yield name, entry
    if missing := [name for name in _FIELDS if name not in found]:
        raise refused(f"it has no list {', '.join(missing)}")


def find_coco_images(file: Path) -> Path | None:
    """The image folder of .../annotations/captions_train2014.json, if it exists."""
    name = file.stem.removeprefix("captions_")
    candidates = [place / name for place in (file.parent.parent, file.parent.parent / "images", file.parent)]
    return next((place for place in [*candidates, file.parent / "images"] if place.is_dir()), None)
