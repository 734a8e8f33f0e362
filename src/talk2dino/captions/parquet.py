"""Parquet files with a column of image bytes and a column of captions."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from talk2dino.captions.files import Fingerprint, printable
from talk2dino.captions.image_rows import ImageRows
from talk2dino.captions.index import hash64, is_shared
from talk2dino.captions.source import CAPTION_FIELDS, CaptionSource, Numbered, Record, Skipped, Wanted, always
from talk2dino.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow

IMAGE_COLUMNS = ("image", "jpg", "image_bytes", "bytes", "png", "content")
ID_COLUMNS = ("image_id", "file_name", "filename", "image_path", "filepath")

#: Some columns of one row, or the error that reading them raised.
Cells: TypeAlias = list[object] | Exception


class ParquetSource(CaptionSource):
    """Parquet files of image bytes (plain, or Hugging Face's struct of bytes and path) and captions.

    Rows with the same image_id or file name are one record, numbered by the first of them. Rows with the same path in
    the struct are one record only if their bytes are equal too, because the path is often a name without its folder.
    """

    def __init__(self, *files: Path) -> None:
        self._tables: list[_Table] = []
        self._rows, content = 0, Fingerprint()
        for file in files:
            table = _Table(file, self._rows)
            self._tables.append(table)
            self._rows = table.end
            content.add_size(file.parent, file.name)
            content.add(_footer(file))
        self._groups = self._group()
        self.describe("parquet", content, files=[printable(file.name) for file in files])

    def __len__(self) -> int:
        return len(self._groups)

    def _group(self) -> ImageRows:
        """Group the rows by image. Reads the column of names, and more only for names that occur more than once."""
        images = array("Q", bytes(8 * self._rows))
        for row, value in self._values(lambda table: table.identity, np.ones(self._rows, dtype=bool)):
            images[row] = hash64(repr(value)) if value is not None else 0
        for row, value in self._values(lambda table: table.compared, is_shared(images)):
            if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
                digest = hashlib.blake2b(value["bytes"], digest_size=8).hexdigest()
                images[row] = hash64(f"{images[row]} {digest}")
        return ImageRows(images, lambda shared: self._values(lambda table: table.captions, shared))

    def _values(self, column: Callable[[_Table], str | None], rows: np.ndarray) -> Iterator[tuple[int, object]]:
        """Yield (row, value) of one column for the rows of a mask; the value is None where the file is damaged."""
        for table in self._tables:
            if name := column(table):
                _, _, inner = name.partition(".")
                for row, cells in table.read([name], rows):
                    value = None if isinstance(cells, Exception) else cells[0]
                    yield row, value.get(inner) if inner and isinstance(value, dict) else value

    def records(self, wanted: Wanted = always) -> Numbered:
        rows = self._groups.wanted_rows(wanted)
        for table in self._tables:
            for row, cells in table.read([table.image, table.captions], rows):
                yield self._groups.number(row), self._record(f"{printable(table.path.name)}:{row}", row, cells)

    def _record(self, key: str, row: int, cells: Cells) -> Record | Skipped:
        if isinstance(cells, UnicodeDecodeError):
            return Skipped(key, "its captions are not UTF-8")
        if isinstance(cells, Exception):
            part = key.rpartition(":")[0]
            return Skipped(key, f"its part of {part} is damaged ({' '.join(str(cells).split())})")
        image, captions = cells
        content = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(content, bytes):
            return Skipped(key, "no image bytes in its row")
        return self._groups.record(row, key, captions, lambda: content)


class _Table:
    """One parquet file: its columns, and its rows ``start`` to ``end`` among those of all files.

    Attributes:
        identity: the column that names a row's image, "image.path" for the path in a struct, or None.
        compared: the column that is compared besides the path in a struct, or None.
    """

    def __init__(self, path: Path, start: int) -> None:
        try:
            from pyarrow.parquet import ParquetFile
        except ImportError:
            raise MissingExtraError.of("pyarrow", "parquet", "reading parquet files") from None
        self.path, self._open = path, ParquetFile
        try:
            with ParquetFile(path) as opened:
                names, metadata = opened.schema_arrow.names, opened.metadata
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as parquet: {error}") from error
        image, captions = _first(IMAGE_COLUMNS, names), _first(CAPTION_FIELDS, names)
        if image is None or captions is None:
            raise DataError(
                f"{path} has the columns {', '.join(names)}; expected one of {', '.join(IMAGE_COLUMNS)} with "
                f"the bytes of the image and one of {', '.join(CAPTION_FIELDS)}"
            )
        self.image, self.captions = image, captions
        in_struct = f"{image}.path" in (metadata.schema.column(n).path for n in range(metadata.num_columns))
        self.identity = _first(ID_COLUMNS, names) or (f"{image}.path" if in_struct else None)
        self.compared = image if self.identity == f"{image}.path" else None
        groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = list(accumulate(groups, initial=start))
        self.end = self._starts[-1]

    def read(self, columns: list[str], mask: np.ndarray) -> Iterator[tuple[int, Cells]]:
        """Yield (row, cells of the columns) for the rows of a mask over the rows of all files.

        The cells are an exception for rows from a damaged page to the end of its row group.
        """
        if not mask[self._starts[0] : self.end].any():
            return
        with self._open(self.path) as opened:
            for group, (first, end) in enumerate(pairwise(self._starts)):
                rows = deque((first + np.flatnonzero(mask[first:end])).tolist())
                try:
                    for batch in opened.iter_batches(64, row_groups=[group], columns=columns) if rows else ():
                        while rows and rows[0] < first + batch.num_rows:
                            yield rows[0], _cells(batch, columns, rows[0] - first)
                            rows.popleft()
                        first += batch.num_rows
                except (OSError, ValueError) as error:  # pyarrow's errors for a damaged page
                    yield from ((row, error) for row in rows)


def _footer(file: Path) -> bytes:
    """The metadata at the end: place, size, smallest and largest value of each column of each row group."""
    with open(file, "rb") as opened:
        opened.seek(-8, os.SEEK_END)
        length = int.from_bytes(opened.read(4), "little")
        opened.seek(-8 - length, os.SEEK_END)
        return opened.read(length)


def _cells(batch: pyarrow.RecordBatch, columns: list[str], row: int) -> Cells:
    try:
        return [batch.column(name.partition(".")[0])[row].as_py() for name in columns]
    except UnicodeDecodeError as error:
        return error


def _first(candidates: Iterable[str], names: Collection[str]) -> str | None:
    return next((name for name in candidates if name in names), None)
