"""The interface of caption sources, and sources made from other sources.

A source numbers its records from 0. A record that cannot be used keeps its number and gives the reason, so the number
alone decides which shard of a feature store a record belongs to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from talk2dino.captions.files import Fingerprint
from talk2dino.io.names import SURROGATE

#: Names of the JSON field or table column that holds captions, the preferred one first.
CAPTION_FIELDS = ("captions", "caption", "text", "sentences", "txt")


@dataclass(frozen=True)
class Record:
    """One image with its captions; ``read`` returns the image file as bytes and may raise OSError or DataError."""

    key: str
    captions: tuple[str, ...]
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Skipped:
    """A record that cannot be used, and the reason."""

    key: str
    reason: str


#: Whether the record of a number is needed.
Wanted: TypeAlias = Callable[[int], bool]
Numbered: TypeAlias = Iterator[tuple[int, Record | Skipped]]


def always(number: int) -> bool:
    return True


class CaptionSource(ABC):
    """Images with captions, numbered from 0.

    Attributes:
        description: stored in a feature store's manifest. Its "content" is a
            :class:`~talk2dino.captions.files.Fingerprint`: a store is only continued with equal content.
        notes: one sentence per problem found while the source was opened.
    """

    description: dict[str, object]
    notes: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def records(self, wanted: Wanted = always) -> Numbered:
        """Yield (number, record) for each wanted number, in order. Other records cost next to nothing."""

    def describe(self, kind: str, content: Fingerprint, **names: str | list[str]) -> None:
        self.description = {"kind": kind, **names, "records": len(self), "content": str(content)}


class IndexedSource(CaptionSource):
    """A source that can read any record by its number."""

    @abstractmethod
    def record(self, number: int) -> Record | Skipped: ...

    def records(self, wanted: Wanted = always) -> Numbered:
        return ((number, self.record(number)) for number in range(len(self)) if wanted(number))


class JoinedSources(CaptionSource):
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[CaptionSource]) -> None:
        self._sources = sources
        content = Fingerprint()
        content.add(*(source.description.get("content") for source in sources))
        parts = [{k: v for k, v in source.description.items() if k != "content"} for source in sources]
        self.description = {"kind": "several", "sources": parts, "records": len(self), "content": str(content)}
        self.notes = [note for source in sources for note in source.notes]

    def __len__(self) -> int:
        return sum(map(len, self._sources))

    def records(self, wanted: Wanted = always) -> Numbered:
        start = 0
        for source in self._sources:
            for number, record in source.records(lambda number, start=start: wanted(start + number)):  # type: ignore[misc]
                yield start + number, record
            start += len(source)


class FirstRecords(CaptionSource):
    """The first ``limit`` records of a source."""

    def __init__(self, source: CaptionSource, limit: int) -> None:
        self._source, self._limit = source, limit
        self.description, self.notes = {**source.description, "records": len(self)}, source.notes

    def __len__(self) -> int:
        return min(self._limit, len(self._source))

    def records(self, wanted: Wanted = always) -> Numbered:
        return islice(self._source.records(wanted), sum(map(wanted, range(len(self)))))


def find_captions(fields: Mapping[str, object]) -> object:
    """The first of :data:`CAPTION_FIELDS` that is not empty, or None."""
    return next((fields[name] for name in CAPTION_FIELDS if fields.get(name)), None)


def make_record(key: str, captions: object, read: Callable[[], bytes]) -> Record | Skipped:
    """Make a record from one caption or a list of captions, with whitespace normalised.

    Captions that are empty, not text, or not valid Unicode (JSON can hold half a surrogate pair) are left out. A record
    without any caption is skipped.
    """
    if isinstance(captions, str):
        captions = [captions]
    elif not isinstance(captions, Iterable) or isinstance(captions, Mapping):
        captions = []
    kept = tuple(" ".join(c.split()) for c in captions if isinstance(c, str) and c.strip() and not SURROGATE.search(c))
    return Record(key, kept, read) if kept else Skipped(key, "no caption that is not empty")
