"""The images of a source, listed once, in order of their keys and in bounded memory.

A source is a folder (searched with its subfolders), a folder of webdataset tars or Parquet files, one such file, a COCO
annotation file, or a text file with one path per line; each at a local path or an fsspec URI.
"""

from __future__ import annotations

import heapq
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import IO

from talk2dino.errors import DataError, InputError, MissingExtraError
from talk2dino.io.find import IMAGE_ENDINGS
from talk2dino.scale.places import Place

#: Entries that are sorted in memory at once; more are merged from temporary files.
IN_MEMORY = 200_000
IMAGE_COLUMNS = ("image", "jpg", "image_bytes", "bytes", "png", "content")


@dataclass(frozen=True)
class Entry:
    """One image of a source.

    Attributes:
        key: unique in the source: the path below it, ``tar/member`` or ``table:row``.
        file: the file that holds the image, below the source; empty if it is the key.
        place: offset in a tar, or row of a table; -1 for a file of its own.
        size: of the image in bytes; -1 if unknown.
    """

    key: str
    file: str = ""
    place: int = -1
    size: int = -1

    def line(self) -> str:
        values = [self.key, self.size, self.file, self.place] if self.file else [self.key, self.size]
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def of_line(cls, line: str) -> Entry:
        key, size, *rest = json.loads(line)
        file, place = rest or ("", -1)
        return cls(key, file, place, size)

    @property
    def is_row(self) -> bool:
        return self.file.endswith(".parquet")


def list_source(source: str) -> Iterator[Entry]:
    """The images of a source, sorted by key.

    Raises:
        DataError: no such source, a damaged file, two images of one key, or no image.
        InputError: a file that is no source.
    """
    place, name = locate(source)
    if name.endswith(".json"):
        found = _coco(place, name)
    elif name.endswith(".txt"):
        found = _paths(place, name)
    elif name:
        found = _container(place, name)
    else:
        found = _folder(place, source)
    before = None
    for entry in sort(found):
        if entry.key == before:
            raise DataError(f"{source} names {entry.key} more than once; every image needs a name of its own")
        before = entry.key
        yield entry
    if before is None:
        raise DataError(
            f"{source} holds no images: looked for {', '.join(e[1:] for e in IMAGE_ENDINGS[:8])}, .tar and .parquet"
        )


def locate(source: str) -> tuple[Place, str]:
    """The folder of a source, and the name of its file; the name is empty if the source is a folder."""
    place = Place(source)
    if place.fs.isdir(place.root):
        return place, ""
    if not place.exists(""):
        raise DataError(f"there is no source at {source}")
    folder, _, name = place.uri.rpartition("/")
    if not name.endswith((".json", ".txt", ".tar", ".parquet")):
        raise InputError(
            f"{source} is no source of images: expected a folder, .tar, .parquet, .json (COCO) or .txt (one path per line)"
        )
    return Place(folder or "."), name


def _folder(place: Place, source: str) -> Iterator[Entry]:
    """Every image below a folder; tars and tables are opened."""
    for folder, _, files in place.fs.walk(place.root, detail=True):
        inner = str(folder)[len(place.root) :].strip("/")
        for name, facts in files.items():
            path = f"{inner}/{name}" if inner else name
            if name.startswith(".") or any(part.startswith(".") for part in inner.split("/")):
                continue
            if name.lower().endswith(IMAGE_ENDINGS):
                yield Entry(path, size=int(facts.get("size") or 0))
            elif name.endswith((".tar", ".parquet")):
                yield from _container(place, path)


def _container(place: Place, name: str) -> Iterator[Entry]:
    with place.fs.open(place.path(name), "rb") as file:
        yield from _table(name, file) if name.endswith(".parquet") else _tar(name, file)


def _tar(name: str, file: IO[bytes]) -> Iterator[Entry]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(IMAGE_ENDINGS):
                    yield Entry(f"{name}/{member.name}", name, member.offset_data, member.size)
                tar.members = []  # type: ignore[attr-defined]  # it would remember every header
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{name} is truncated or damaged ({error}): make it again or move it out of the source"
        ) from None


def _table(name: str, file: IO[bytes]) -> Iterator[Entry]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingExtraError.of("pyarrow", "scale", "reading Parquet files") from None
    try:
        opened = ParquetFile(file)
        rows = opened.metadata.num_rows
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read as Parquet: {error}") from None
    image_column(opened.schema_arrow.names, name)
    for row in range(rows):
        yield Entry(f"{name}:{row:08d}", name, row)


def image_column(names: list[str], table: str) -> str:
    """The column with the bytes of the images."""
    found = next((column for column in IMAGE_COLUMNS if column in names), None)
    if found is None:
        raise DataError(
            f"{table} has the columns {', '.join(names)}; expected one of {', '.join(IMAGE_COLUMNS)} with image bytes"
        )
    return found


def _coco(place: Place, name: str) -> Iterator[Entry]:
    images = place.read_json(name).get("images")
    if not isinstance(images, list):
        raise DataError(f"{name} has no list 'images': expected a COCO annotation file")
    for image in images:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            raise DataError(f"{name} has an image without a file_name: expected a COCO annotation file")
        yield Entry(image["file_name"])


def _paths(place: Place, name: str) -> Iterator[Entry]:
    with place.fs.open(place.path(name), "r", encoding="utf-8-sig", errors="surrogateescape") as file:
        for line in file:
            if path := line.strip():
                yield Entry(path)


def sort(entries: Iterable[Entry], *, in_memory: int | None = None) -> Iterator[Entry]:
    """Entries by key; what does not fit into memory is sorted piece by piece in temporary files and merged."""
    entries, limit = iter(entries), in_memory or IN_MEMORY
    key: Callable[[Entry], str] = lambda entry: entry.key  # noqa: E731
    with ExitStack() as files:
        pieces: list[Iterator[Entry]] = []
        while piece := sorted(islice(entries, limit), key=key):
            if len(piece) < limit and not pieces:
                yield from piece
                return
            file = files.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape"))
            file.writelines(entry.line() + "\n" for entry in piece)
            file.seek(0)
            pieces.append(map(Entry.of_line, file))
        yield from heapq.merge(*pieces, key=key)
