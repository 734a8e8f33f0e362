"""The encoded bytes of a shard's images, read ahead by a few threads, in order."""

from __future__ import annotations

import io
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

from talk2dino.errors import DataError, ImageError, Talk2DinoError
from talk2dino.io.images import LoadedImage, read_image
from talk2dino.scale.listing import Entry, image_column, locate
from talk2dino.scale.places import Place

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """One image as it lies in the source: its entry and its bytes, or why they cannot be read."""

    entry: Entry
    content: bytes = b""
    error: str | None = None


class SourceReader:
    """Reads images of a source by their entries.

    Args:
        source: as in the plan.
        ahead: images that are read before they are asked for, by ``threads`` threads.
    """

    def __init__(self, source: str, *, ahead: int = 32, threads: int = 4) -> None:
        self.place, _ = locate(source)
        self.ahead, self.threads = ahead, threads

    def read_all(self, entries: Iterable[Entry]) -> Iterator[Encoded]:
        """The bytes of each entry, in order."""
        with ThreadPoolExecutor(self.threads, "read") as pool:
            waiting: deque[Future[list[Encoded]]] = deque()
            try:
                for group in _groups(entries):
                    waiting.append(pool.submit(self._read, group))
                    if len(waiting) > self.ahead:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, group: list[Entry]) -> list[Encoded]:
        if group[0].is_row:
            return self._rows(group)
        (entry,) = group
        try:
            if entry.file:
                return [Encoded(entry, self.place.read_part(entry.file, entry.place, entry.size))]
            place, name = (Place(entry.key), "") if "://" in entry.key else (self.place, entry.key)
            content = place.read(name)
        except DataError as error:
            return [Encoded(entry, error=str(error))]
        if entry.size >= 0 and len(content) != entry.size:
            changed = f"{entry.key} has {len(content):,} bytes, but had {entry.size:,} when it was listed: it changed"
            return [Encoded(entry, error=changed)]
        return [Encoded(entry, content)]

    def _rows(self, group: list[Entry]) -> list[Encoded]:
        """Rows of one table that follow each other."""
        from pyarrow.parquet import ParquetFile

        try:
            with self.place.fs.open(self.place.path(group[0].file), "rb") as file:
                table = ParquetFile(file)
                column = image_column(table.schema_arrow.names, group[0].file)
                found = dict(_cells(table, column, {entry.place for entry in group}))
        except (OSError, ValueError, DataError) as error:
            return [Encoded(entry, error=f"{entry.file} cannot be read as Parquet: {error}") for entry in group]
        return [
            Encoded(entry, found[entry.place]) if entry.place in found
            else Encoded(entry, error=f"row {entry.place} of {entry.file} holds no image bytes")
            for entry in group
        ]  # fmt: skip


def _groups(entries: Iterable[Entry], rows: int = 64) -> Iterator[list[Entry]]:
    """Single files, and up to ``rows`` rows of one table."""
    group: list[Entry] = []
    for entry in entries:
        if group and (not entry.is_row or group[0].file != entry.file or len(group) == rows):
            yield group
            group = []
        group.append(entry)
        if not entry.is_row:
            yield group
            group = []
    if group:
        yield group


def _cells(table: object, column: str, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """(row, bytes) of the wanted rows; other row groups are not read."""
    start = 0
    for group in range(table.num_row_groups):  # type: ignore[attr-defined]
        rows = table.metadata.row_group(group).num_rows  # type: ignore[attr-defined]
        inside = {row for row in wanted if start <= row < start + rows}
        if inside:
            first = start
            for batch in table.iter_batches(64, row_groups=[group], columns=[column]):  # type: ignore[attr-defined]
                for row in range(first, first + batch.num_rows):
                    if row in inside:
                        cell = batch.column(0)[row - first].as_py()
                        content = cell.get("bytes") if isinstance(cell, dict) else cell
                        if isinstance(content, bytes):
                            yield row, content
                first += batch.num_rows
        start += rows


class Decoder:
    """Encoded bytes to an image; ``careful`` decodes in a process of its own, which an image may kill."""

    def __init__(self, *, allow_truncated: bool, max_pixels: int, careful: bool = False) -> None:
        self.options = {"allow_truncated": allow_truncated, "max_pixels": max_pixels}
        self.careful = careful
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, found: Encoded) -> LoadedImage:
        """The image.

        Raises:
            Talk2DinoError: it cannot be read or decoded.
        """
        if found.error is not None:
            raise ImageError(found.error)
        if not self.careful:
            return _decode(found.content, found.entry.key, self.options)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            array, notes = self._pool.submit(_decode_apart, found.content, found.entry.key, self.options).result()
        except BrokenExecutor:
            self._pool = None
            raise ImageError(
                f"decoding {found.entry.key} ended the process that did it: the file is damaged or hostile"
            ) from None
        return LoadedImage(array, found.entry.key, notes)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _decode(content: bytes, key: str, options: Mapping[str, Any]) -> LoadedImage:
    try:
        return read_image(io.BytesIO(content), **options)  # type: ignore[arg-type]
    except Talk2DinoError as error:
        raise type(error)(f"{key}: {error}") from None


def _decode_apart(content: bytes, key: str, options: Mapping[str, Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    image = _decode(content, key, options)
    return image.array, image.notes
