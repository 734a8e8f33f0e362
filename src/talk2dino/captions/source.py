"""Caption sources: where picture-caption pairs come from. One interface, one class a layout.

A source numbers its records from 0; what cannot be used keeps its number and says why, so that shards of features can
be cut by number alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from talk2dino.errors import DataError

CAPTION_FIELDS = ("captions", "caption", "text", "sentences", "txt")
FILE_FIELDS = ("file_name", "filename", "image", "path", "filepath")


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
        description: what the manifest says of the source; its "content" tells other captions or pictures apart, see
            :class:`Fingerprint`.
        notes: what was met while the source was opened and somebody should know, a sentence each.
    """

    description: dict[str, Any]
    notes: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        """The records whose number is wanted, in order; the others cost next to nothing."""


class Fingerprint:
    """What a source holds, in 16 digits: captions by their content, pictures by name and size.

    Times are left out, for a copy on another machine is the same source.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, *values: Any) -> None:
        self._digest.update(repr(values).encode("utf-8", "surrogatepass"))

    def add_file(self, path: Path) -> None:
        """A file by its content."""
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                self._digest.update(piece)

    def add_size(self, folder: Path | str, name: str) -> None:
        """A file by its name and size; one that is not there by its name alone."""
        try:
            self.add(name, os.stat(os.path.join(folder, name)).st_size)
        except (OSError, ValueError):
            self.add(name, None)

    def __str__(self) -> str:
        return self._digest.hexdigest()[:16]


class Several(CaptionSource):
    """Sources one after another."""

    def __init__(self, sources: list[CaptionSource]) -> None:
        self._sources = sources
        content = Fingerprint()
        content.add(*(source.description.get("content") for source in sources))
        told = [{k: v for k, v in source.description.items() if k != "content"} for source in sources]
        self.description = {"kind": "several", "sources": told, "records": len(self), "content": str(content)}
        self.notes = [note for source in sources for note in source.notes]

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
        self.description, self.notes = {**source.description, "records": len(self)}, source.notes

    def __len__(self) -> int:
        return min(self._limit, len(self._source))

    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        numbered = self._source.records(lambda n: n < self._limit and wanted(n))
        return islice(numbered, sum(map(wanted, range(len(self)))))


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
