"""Caption sources: where picture-caption pairs come from. One interface, one class a layout.

A source numbers its records from 0; what cannot be used keeps its number and says why, so that shards of features can
be cut by number alone.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from talk2dino.errors import DataError
from talk2dino.io.images import IMAGE_ENDINGS
from talk2dino.training.compact import Texts, json_entries

CAPTION_FIELDS = ("captions", "caption", "text", "sentences", "txt")
FILE_FIELDS = ("file_name", "filename", "image", "path", "filepath")
_COCO_EXPECTED = "expected 'images' (id, file_name) and 'annotations' (image_id, caption)"


@dataclass(frozen=True)
class Record:
    """One picture with its captions; ``read`` gives the picture's file as bytes and may raise OSError or DataError."""

    key: str
    captions: tuple[str, ...]
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Skipped:
    """A record that cannot be used, and why."""

    key: str
    reason: str


class CaptionSource(ABC):
    """Picture-caption records, numbered from 0.

    Attributes:
        description: what the manifest says of the source.
    """

    description: dict[str, Any]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        """The records whose number is wanted, in order; the others cost next to nothing."""


class CocoCaptions(CaptionSource):
    """A COCO captions file (captions_train2014.json, 2017 alike) and its folder of pictures."""

    def __init__(self, file: Path, images: Path | None = None) -> None:
        # Ids stand as hashes in arrays and texts in blocks of bytes: some 300 bytes a picture with its five captions.
        self._ids, self._names, self._texts = Texts(), Texts(), Texts()
        pictures, owners = array("Q"), array("Q")
        for name, entry in _coco_entries(file):
            if name == "images":
                pictures.append(key_hash(_coco_id(file, entry, "id")))
                self._ids.append(str(entry["id"]))
                self._names.append(str(entry["file_name"]))
            elif isinstance(entry["caption"], str):
                owners.append(key_hash(_coco_id(file, entry, "image_id")))
                self._texts.append(entry["caption"])
        if images is not None and not images.is_dir():
            raise DataError(f"no folder of pictures at {images}; say where they are with --images FOLDER")
        self._folder = images or coco_images(file)
        self._sort(file, np.asarray(pictures, dtype=np.uint64), np.asarray(owners, dtype=np.uint64))
        self.description = {"kind": "coco", "file": file.name, "images": self._folder.name, "records": len(self)}

    def __len__(self) -> int:
        return len(self._ids)

    def _sort(self, file: Path, pictures: np.ndarray, owners: np.ndarray) -> None:
        """Find the captions of each picture, and put pictures that captions name alone at the end."""
        listed = len(pictures)
        unknown = set(np.setdiff1d(owners, pictures).tolist())
        if unknown:
            for name, entry in _coco_entries(file):
                value = key_hash(_coco_id(file, entry, "image_id")) if name == "annotations" else None
                if value in unknown:
                    unknown.discard(value)
                    self._ids.append(str(entry["image_id"]))
        order = np.argsort(owners, kind="stable")
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
            raise DataError(f"{file} is not a COCO captions file: {told} in '{name}'; {_COCO_EXPECTED}")
        yield name, entry
    if lacking := [name for name in needed if name not in found]:
        raise DataError(f"{file} is not a COCO captions file: no list {', '.join(lacking)}; {_COCO_EXPECTED}")


def _coco_id(file: Path, entry: dict[str, Any], field: str) -> str:
    """An id as text that tells 1 and "1" apart."""
    if not isinstance(entry[field], (int, str)):
        raise DataError(f"{file} is not a COCO captions file: {field} is {entry[field]!r:.40}; {_COCO_EXPECTED}")
    return repr(entry[field])


class TextFiles(CaptionSource):
    """A folder of pictures, each with a .txt of the same name: a caption a line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = Texts(
            sorted(
                os.path.relpath(os.path.join(place, name), folder)
                for place, _, names in os.walk(folder)
                for name in names
                if os.path.splitext(name)[1].lower() in IMAGE_ENDINGS
            )
        )
        self.description = {"kind": "txt", "folder": folder.name, "records": len(self)}

    def __len__(self) -> int:
        return len(self._names)

    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        for number, name in enumerate(self._names):
            if wanted(number):
                yield number, self._record(name)

    def _record(self, name: str) -> Record | Skipped:
        try:
            text = (self._folder / name).with_suffix(".txt").read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            return Skipped(name, "no .txt of the same name")
        except UnicodeDecodeError:
            return Skipped(name, "its captions are not UTF-8")
        except OSError as error:
            return Skipped(name, f"its captions cannot be read: {error.strerror}")
        return make_record(name, text.splitlines(), file_reader(self._folder, name))


class Metadata(CaptionSource):
    """A folder with metadata.jsonl or metadata.csv, as Hugging Face's imagefolder has it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._check_columns()
        keys = array("Q", (key_hash(key) if isinstance(key, str) else 0 for key, _ in self._entries()))
        self._count, self._again = len(keys), repeated(keys)
        self.description = {"kind": file.suffix[1:], "folder": file.parent.name, "records": self._count}

    def __len__(self) -> int:
        return self._count

    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        for number, (name, captions) in enumerate(self._entries()):
            if not wanted(number):
                continue
            if isinstance(name, Skipped):
                yield number, name
            elif number in self._again:
                yield number, Skipped(name, "duplicate id: its first line is used")
            else:
                yield number, make_record(name, captions, file_reader(self._file.parent, name))

    def _entries(self) -> Iterator[tuple[str | Skipped, Any]]:
        lines = self._json_lines() if self._file.suffix == ".jsonl" else self._csv_rows()
        for number, entry in enumerate(lines):
            place = f"{self._file.name}:{number + 1}"
            if isinstance(entry, str):
                yield Skipped(place, entry), None
                continue
            name = next((entry[field] for field in FILE_FIELDS if isinstance(entry.get(field), str)), None)
            captions = next((entry[field] for field in CAPTION_FIELDS if entry.get(field)), None)
            yield name or Skipped(place, f"no field {', '.join(FILE_FIELDS)}"), captions

    def _check_columns(self) -> None:
        if self._file.suffix == ".jsonl":
            return
        with open(self._file, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            try:
                columns = next(csv.reader(file), [])
            except csv.Error as error:
                raise DataError(f"{self._file} cannot be read as CSV: {error}") from None
        if not any(name in columns for name in FILE_FIELDS) or not any(name in columns for name in CAPTION_FIELDS):
            shown = ", ".join(columns)[:200].encode("utf-8", "replace").decode()
            raise DataError(
                f"{self._file} has the columns {shown or '(none)'} in its first line; expected one of "
                f"{', '.join(FILE_FIELDS)} and one of {', '.join(CAPTION_FIELDS)}"
            )

    def _json_lines(self) -> Iterator[dict[str, Any] | str]:
        with open(self._file, "rb") as file:
            for number, line in enumerate(file):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
                if not line.strip():
                    continue
                try:
                    entry = json.loads(line.decode("utf-8"))
                    yield entry if isinstance(entry, dict) else "not a JSON object"
                except UnicodeDecodeError:
                    yield "not UTF-8"
                except ValueError:
                    yield "not JSON"

    def _csv_rows(self) -> Iterator[dict[str, Any] | str]:
        with open(self._file, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file)
            while True:
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except csv.Error as error:  # the reader goes on with the line after it
                    yield f"not CSV ({error})"
                    continue
                text = "".join(str(value) for value in row.values())
                yield "not UTF-8" if re.search("[\udc80-\udcff]", text) else row


class Several(CaptionSource):
    """Sources one after another."""

    def __init__(self, sources: list[CaptionSource]) -> None:
        self._sources = sources
        self.description = {"kind": "several", "sources": [s.description for s in sources], "records": len(self)}

    def __len__(self) -> int:
        return sum(map(len, self._sources))

    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        start = 0
        for source in self._sources:
            for number, record in source.records(lambda n, start=start: wanted(start + n)):  # type: ignore[misc]
                yield start + number, record
            start += len(source)


class FirstRecords(CaptionSource):
    """The first so many records of a source, for a trial."""

    def __init__(self, source: CaptionSource, limit: int) -> None:
        self._source, self._limit = source, limit
        self.description = {**source.description, "records": len(self)}

    def __len__(self) -> int:
        return min(self._limit, len(self._source))

    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        numbered = self._source.records(lambda n: n < self._limit and wanted(n))
        return islice(numbered, sum(map(wanted, range(len(self)))))


def open_source(path: str | Path, *, images: Path | None = None, split: str = "train") -> CaptionSource:
    """Recognise a layout.

    Args:
        path: a COCO captions .json; a .tar or .parquet file; or a folder: COCO's (annotations/ beside train2014/ or
            train2017/), one with metadata.jsonl or metadata.csv, one of tars or parquet files, or pictures with .txt.
        images: the folder of pictures of a .json, where it is not beside it.
        split: which part of a COCO folder.

    Raises:
        DataError: no such file, or nothing that looks like one of these.
    """
    from talk2dino.training.archives import Parquet, WebDataset

    path = Path(path)
    if not path.exists():
        raise DataError(f"no caption source at {path}")
    if path.is_file():
        if path.suffix == ".json":
            return CocoCaptions(path, images)
        if path.suffix in (".jsonl", ".csv"):
            return Metadata(path)
        if path.suffix == ".tar":
            return WebDataset([path])
        if path.suffix == ".parquet":
            return Parquet([path])
        raise DataError(f"{path}: a caption source is a .json, .jsonl, .csv, .tar or .parquet file, or a folder")
    if files := sorted((path / "annotations").glob(f"captions_{split}20*.json")):
        return CocoCaptions(files[0], images)
    for name in ("metadata.jsonl", "metadata.csv"):
        if (path / name).is_file():
            return Metadata(path / name)
    if files := sorted(path.glob("*.tar")):
        return WebDataset(files)
    if files := sorted(path.rglob("*.parquet")):
        return Parquet(files)
    source = TextFiles(path)
    if not len(source) or not next(path.rglob("*.txt"), None):
        raise DataError(
            f"{path} holds no captions: looked for annotations/captions_{split}20*.json, metadata.jsonl, metadata.csv, "
            "*.tar, *.parquet, and pictures with a .txt each"
        )
    return source


def make_record(key: str, captions: Any, read: Callable[[], bytes]) -> Record | Skipped:
    """A record with what is left of its captions after trimming; none left means skipped.

    Left out are captions that are empty, no text, or cannot be written as UTF-8 (JSON can hold half a character).
    """
    several = isinstance(captions, Iterable) and not isinstance(captions, Mapping)
    given = [captions] if isinstance(captions, str) else captions if several else []
    kept = tuple(" ".join(c.split()) for c in given if isinstance(c, str) and c.strip() and _is_unicode(c))
    return Record(key, kept, read) if kept else Skipped(key, "no caption that is not empty")


def _is_unicode(text: str) -> bool:
    return text.isascii() or not re.search("[\ud800-\udfff]", text)


def file_reader(folder: Path, name: str) -> Callable[[], bytes]:
    """Reads a picture of a folder; a name that leads out of the folder is refused."""

    def read() -> bytes:
        if os.path.isabs(name) or os.path.normpath(name).startswith(".."):
            raise DataError(f"{name} leads out of {folder}")
        return (folder / name).read_bytes()

    return read


def coco_images(file: Path) -> Path:
    """The folder of pictures that belongs to .../annotations/captions_train2014.json."""
    name = file.stem.removeprefix("captions_")
    candidates = [place / name for place in (file.parent.parent, file.parent.parent / "images", file.parent)]
    for candidate in [*candidates, file.parent / "images"]:
        if candidate.is_dir():
            return candidate
    raise DataError(f"no folder {name} of pictures beside {file}; say where it is with --images FOLDER")


def key_hash(key: str) -> int:
    """64 bits of a key, not 0: duplicates of a million keys are found in 8 MB."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def repeated(hashes: array | np.ndarray) -> set[int]:
    """Places of all but the first of equal hashes; 0 is equal to nothing."""
    values = np.asarray(hashes, dtype=np.uint64)
    order = np.argsort(values, kind="stable")
    sorted_values = values[order]
    again = order[1:][(sorted_values[1:] == sorted_values[:-1]) & (sorted_values[1:] != 0)]
    return set(again.tolist())
