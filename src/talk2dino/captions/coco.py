"""COCO captions files and their folders of pictures."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from talk2dino.captions.compact import Texts, json_entries
from talk2dino.captions.source import (
    CaptionSource,
    Fingerprint,
    Record,
    Skipped,
    file_reader,
    key_hash,
    make_record,
    repeated,
)
from talk2dino.errors import DataError

_EXPECTED = "expected 'images' (id, file_name) and 'annotations' (image_id, caption)"


class CocoCaptions(CaptionSource):
    """A COCO captions file (captions_train2014.json, 2017 alike) and its folder of pictures."""

    def __init__(self, file: Path, images: Path | None = None) -> None:
        # Ids stand as hashes in arrays and texts in blocks of bytes: some 300 bytes a picture with its five captions.
        self._ids, self._names, self._texts = Texts(), Texts(), Texts()
        pictures, owners, annotations = array("Q"), array("Q"), array("Q")
        textless = 0
        for name, entry in _coco_entries(file):
            if name == "images":
                pictures.append(key_hash(_coco_id(file, entry, "id")))
                self._ids.append(str(entry["id"]))
                self._names.append(entry["file_name"] if isinstance(entry["file_name"], str) else "")
            elif isinstance(entry["caption"], str):
                owners.append(key_hash(_coco_id(file, entry, "image_id")))
                self._texts.append(entry["caption"])
                annotations.append(key_hash(repr((entry.get("id"), entry["image_id"], entry["caption"]))))
            else:
                textless += 1
        if images is not None and not images.is_dir():
            raise DataError(f"no folder of pictures at {images}; say where they are with --images FOLDER")
        self._folder = images or coco_images(file)
        again = repeated(annotations)
        self._sort(file, np.asarray(pictures, dtype=np.uint64), np.asarray(owners, dtype=np.uint64), again)
        counted = ((textless, "have no text as their caption"), (len(again), "stand there twice"))
        self.notes = [f"{file.name}: {count} annotations {what} and are left out" for count, what in counted if count]
        content = Fingerprint()
        content.add_file(file)
        for name in filter(None, self._names):
            content.add_size(self._folder, name)
        self.description = {
            "kind": "coco",
            "file": file.name,
            "images": self._folder.name,
            "records": len(self),
            "content": str(content),
        }

    def __len__(self) -> int:
        return len(self._ids)

    def _sort(self, file: Path, pictures: np.ndarray, owners: np.ndarray, again: set[int]) -> None:
        """Find the captions of each picture, less repeated ones, and put pictures that captions alone name at the end."""
        listed = len(pictures)
        unknown = set(np.setdiff1d(owners, pictures).tolist())
        if unknown:
            for name, entry in _coco_entries(file):
                value = key_hash(_coco_id(file, entry, "image_id")) if name == "annotations" else None
                if value in unknown:
                    unknown.discard(value)
                    self._ids.append(str(entry["image_id"]))
        order = np.argsort(owners, kind="stable")
        if again:
            order = order[~np.isin(order, list(again))]
        self._order = order.astype(np.uint32)  # captions, those of one picture beside each other
        hashes = owners[order]
        self._first = np.searchsorted(hashes, pictures, "left").astype(np.uint32)
        self._last = np.searchsorted(hashes, pictures, "right").astype(np.uint32)
        self._again = repeated(pictures)
        self._listed = listed

    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        for number in filter(wanted, range(len(self))):
            key = self._ids[number]
            if number >= self._listed:
                yield number, Skipped(key, "captions name a picture that the file does not list")
            elif number in self._again:
                yield number, Skipped(key, "duplicate id: its first picture is used")
            elif not self._names[number]:
                yield number, Skipped(key, "its file_name is empty")
            else:
                places = self._order[self._first[number] : self._last[number]].tolist()
                captions = [self._texts[place] for place in places]
                yield number, make_record(key, captions, file_reader(self._folder, self._names[number]))


def _coco_entries(file: Path) -> Iterator[tuple[str, Any]]:
    """("images" or "annotations", entry) in the order of the file."""
    found: set[str] = set()
    needed = {"images": ("id", "file_name"), "annotations": ("image_id", "caption")}
    for name, entry in json_entries(file, list(needed), found):
        if not isinstance(entry, dict) or (lacking := [field for field in needed[name] if field not in entry]):
            told = f"an entry lacks {', '.join(lacking)}" if isinstance(entry, dict) else f"an entry is {entry!r:.40}"
            raise DataError(f"{file} is not a COCO captions file: {told} in '{name}'; {_EXPECTED}")
        yield name, entry
    if lacking := [name for name in needed if name not in found]:
        raise DataError(f"{file} is not a COCO captions file: no list {', '.join(lacking)}; {_EXPECTED}")


def _coco_id(file: Path, entry: dict[str, Any], field: str) -> str:
    """An id as text that tells 1 and "1" apart."""
    if not isinstance(entry[field], (int, str)):
        raise DataError(f"{file} is not a COCO captions file: {field} is {entry[field]!r:.40}; {_EXPECTED}")
    return repr(entry[field])


def find_coco_images(file: Path) -> Path | None:
    """The folder of pictures that belongs to .../annotations/captions_train2014.json, where there is one."""
    name = file.stem.removeprefix("captions_")
    candidates = [place / name for place in (file.parent.parent, file.parent.parent / "images", file.parent)]
    return next((place for place in [*candidates, file.parent / "images"] if place.is_dir()), None)


def coco_images(file: Path) -> Path:
    """As :func:`find_coco_images`; raises DataError where there is none."""
    if (found := find_coco_images(file)) is None:
        name = file.stem.removeprefix("captions_")
        raise DataError(f"no folder {name} of pictures beside {file}; say where it is with --images FOLDER")
    return found
