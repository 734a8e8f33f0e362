"""Caption sources in parquet files."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from talk2dino.captions.grouped import GroupedRows
from talk2dino.captions.source import (
    CAPTION_FIELDS,
    CaptionSource,
    Fingerprint,
    Record,
    Skipped,
    key_hash,
    make_record,
    repeated,
)
from talk2dino.errors import DataError, MissingExtraError

IMAGE_COLUMNS = ("image", "jpg", "image_bytes", "bytes", "png", "content")
ID_COLUMNS = ("image_id", "file_name", "filename", "image_path", "filepath")


class Parquet(CaptionSource):
    """Parquet files with a column of picture bytes (plain, or Hugging Face's struct of bytes and path) and captions.

    Rows with the same image_id or file name are one picture; those with the same path in the struct only where the bytes
    are the same, too, for that is often a name without its folder. They are one record, numbered where the first stands.
    """

    def __init__(self, files: list[Path]) -> None:
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise MissingExtraError.of("pyarrow", "parquet", "reading parquet files") from None
        self._open, self._files = parquet.ParquetFile, files
        self._counts: list[int] = []
        self._identities: list[str | None] = []
        content = Fingerprint()
        for file in files:
            try:
                with parquet.ParquetFile(file) as opened:
                    image, _ = _columns(file, opened.schema_arrow.names)
                    self._counts.append(opened.metadata.num_rows)
                    self._identities.append(_identity(opened.schema_arrow, image))
                content.add_size(file.parent, file.name)
                content.add(_footer(file))
            except (OSError, ValueError) as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(f"{file} cannot be read as parquet: {error}") from error
        self._grouped = self._group()
        self.description = {
            "kind": "parquet",
            "files": [file.name for file in files],
            "records": len(self),
            "content": str(content),
        }

    def __len__(self) -> int:
        return len(self._grouped)

    def _group(self) -> GroupedRows:
        """Find the rows of one picture; costs a column of names, and more only when some stand there twice."""
        total = sum(self._counts)
        pictures, rows = array("Q", bytes(8 * total)), array("Q", bytes(8 * total))
        for row, value in self._values(lambda file, image, _: self._identities[file], np.ones(total, dtype=bool)):
            pictures[row] = key_hash(repr(value)) if value is not None else 0
        several = _in_groups(pictures)
        if several.any():
            by_path = {file for file, name in enumerate(self._identities) if name and "." in name}
            columns: Callable[[int, str, str], str | None] = lambda file, image, _: image if file in by_path else None  # noqa: E731
            for row, value in self._values(columns, several):
                if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
                    picture = hashlib.blake2b(value["bytes"], digest_size=8).hexdigest()
                    pictures[row] = key_hash(f"{pictures[row]} {picture}")
            several = _in_groups(pictures)
            for row, value in self._values(lambda file, _, caption: caption, several):
                rows[row] = key_hash(repr((pictures[row], value)))
        grouped = GroupedRows(pictures, rows)
        if grouped.has_further:
            for row, value in self._values(lambda file, _, caption: caption, several):
                grouped.add(row, value)
        return grouped

    def _values(self, column: Callable[[int, str, str], str | None], wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
        """(row, value) of the wanted rows; None for what is damaged.

        Args:
            column: from the number of a file, its column of pictures and its column of captions: what to read, or None.
        """
        start = 0
        for number, (file, count) in enumerate(zip(self._files, self._counts, strict=True)):
            with self._open(file) as opened:
                name = column(number, *_columns(file, opened.schema_arrow.names))
                first = start
                for group in range(opened.num_row_groups if name else 0):
                    rows = opened.metadata.row_group(group).num_rows
                    if wanted[first : first + rows].any():
                        yield from _group_values(opened, group, str(name), wanted[first : first + rows], first)
                    first += rows
            start += count

    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        start = 0
        for file, count in zip(self._files, self._counts, strict=True):
            if self._any(wanted, start, count):
                yield from self._rows(file, start, wanted)
            start += count

    def _any(self, wanted: Callable[[int], bool], start: int, rows: int) -> bool:
        return any(map(wanted, range(self._grouped.number_of(start), self._grouped.number_of(start + rows))))

    def _rows(self, file: Path, start: int, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Record | Skipped]]:
        with self._open(file) as opened:
            columns = _columns(file, opened.schema_arrow.names)
            for group in range(opened.num_row_groups):
                rows = opened.metadata.row_group(group).num_rows
                if self._any(wanted, start, rows):
                    numbered = [
                        (self._grouped.number_of(start) + n, row)
                        for n, row in enumerate(
                            r for r in range(start, start + rows) if not self._grouped.is_further(r)
                        )
                    ]
                    left = {row: number for number, row in numbered if wanted(number)}
                    place = start
                    try:
                        for batch in opened.iter_batches(64, row_groups=[group], columns=list(columns)):
                            for n in range(batch.num_rows):
                                if place in left:
                                    yield left.pop(place), self._record(file, batch, n, place, columns)
                                place += 1
                    except (OSError, ValueError) as error:  # what pyarrow raises for a damaged page
                        reason = f"its part of {file.name} is damaged ({' '.join(str(error).split())})"
                        for row, number in left.items():
                            yield number, Skipped(f"{file.name}:{row}", reason)
                start += rows

    def _record(self, file: Path, batch: Any, n: int, row: int, columns: tuple[str, str]) -> Record | Skipped:
        key = f"{file.name}:{row}"
        if self._grouped.is_again(row):
            return Skipped(key, "a row of the same picture and captions: its first one is used")
        try:
            image, captions = (batch.column(name)[n].as_py() for name in columns)
        except UnicodeDecodeError:
            return Skipped(key, "its captions are not UTF-8")
        content = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(content, bytes):
            return Skipped(key, "no picture bytes in its row")
        return make_record(key, self._grouped.captions(row, captions), lambda: content)


def _columns(file: Path, names: list[str]) -> tuple[str, str]:
    """The columns of the picture's bytes and of its captions."""
    image = next((name for name in IMAGE_COLUMNS if name in names), None)
    caption = next((name for name in CAPTION_FIELDS if name in names), None)
    if image is None or caption is None:
        raise DataError(
            f"{file} has the columns {', '.join(names)}; expected one of image, jpg, bytes with the picture's "
            f"bytes and one of {', '.join(CAPTION_FIELDS)}"
        )
    return image, caption


def _identity(schema: Any, image: str) -> str | None:
    """The column that names a row's picture, "image.path" for a struct's."""
    if named := next((name for name in ID_COLUMNS if name in schema.names), None):
        return named
    kind = schema.field(image).type
    struct = hasattr(kind, "fields") or (hasattr(kind, "num_fields") and kind.num_fields)
    return f"{image}.path" if struct and kind.get_field_index("path") >= 0 else None


def _footer(file: Path) -> bytes:
    """The metadata at the end: where each column of each row group lies, its size, and its smallest and largest value."""
    with open(file, "rb") as opened:
        opened.seek(-8, os.SEEK_END)
        length = int.from_bytes(opened.read(4), "little")
        opened.seek(-8 - length, os.SEEK_END)
        return opened.read(length)


def _in_groups(hashes: array) -> np.ndarray:
    """(N,) whether each hash is there more than once."""
    values = np.asarray(hashes, dtype=np.uint64)
    return np.isin(values, values[list(repeated(values))])


def _group_values(opened: Any, group: int, name: str, wanted: np.ndarray, first: int) -> Iterator[tuple[int, Any]]:
    """(row, value) of the wanted rows of a row group whose rows start at ``first``."""
    top, _, inner = name.partition(".")
    place = 0
    try:
        for batch in opened.iter_batches(64, row_groups=[group], columns=[name]):
            for n in range(batch.num_rows):
                if wanted[place]:
                    yield first + place, _value(batch.column(top)[n], inner)
                place += 1
    except (OSError, ValueError):
        for rest in np.flatnonzero(wanted[place:]):
            yield first + place + int(rest), None


def _value(cell: Any, inner: str) -> Any:
    try:
        value = cell.as_py()
    except UnicodeDecodeError:
        return None
    return value.get(inner) if inner and isinstance(value, dict) else value
