"""Image folders with one metadata.jsonl or metadata.csv, as Hugging Face's imagefolder has it."""

from __future__ import annotations

import csv
import json
import string
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from talk2dino.captions.files import Fingerprint, file_reader, printable
from talk2dino.captions.image_rows import ImageRows
from talk2dino.captions.index import hash64
from talk2dino.captions.source import CAPTION_FIELDS, CaptionSource, Numbered, Skipped, Wanted, always, find_captions
from talk2dino.errors import DataError
from talk2dino.io.names import SURROGATE

FILE_FIELDS = ("file_name", "filename", "image", "path", "filepath")


class MetadataSource(CaptionSource):
    """A metadata file with one line per image or per caption.

    Lines with the same file name are one record, numbered by the first of them.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        if file.suffix == ".csv":
            _check_columns(file)
        content = Fingerprint()
        content.add_file(file)
        images = array("Q")
        for name, _ in self._rows():
            if isinstance(name, str):
                content.add_size(file.parent, name)
            images.append(hash64(name) if isinstance(name, str) else 0)
        self._groups = ImageRows(
            images, lambda rows: ((row, captions) for row, (_, captions) in enumerate(self._rows()) if rows[row])
        )
        self.describe(file.suffix[1:], content, folder=printable(file.parent.name))

    def __len__(self) -> int:
        return len(self._groups)

    def records(self, wanted: Wanted = always) -> Numbered:
        rows = self._groups.wanted_rows(wanted)
        for row, (name, captions) in enumerate(self._rows()):
            if rows[row]:
                read = file_reader(self._file.parent, str(name))
                record = self._groups.record(row, name, captions, read) if isinstance(name, str) else name
                yield self._groups.number(row), record

    def _rows(self) -> Iterator[tuple[str | Skipped, object]]:
        """Yield (file name, captions) per line, or (Skipped, None) for a line that cannot be used."""
        with _open(self._file) as opened:
            lines = _json_lines(opened) if self._file.suffix == ".jsonl" else _csv_lines(opened)
            for number, entry in enumerate(lines, start=1):
                key = f"{printable(self._file.name)}:{number}"
                if isinstance(entry, str):
                    yield Skipped(key, entry), None
                    continue
                name = next((entry[field] for field in FILE_FIELDS if isinstance(entry.get(field), str)), None)
                yield name or Skipped(key, f"no field {', '.join(FILE_FIELDS)}"), find_captions(entry)


def _open(file: Path) -> IO[str]:
    """Bytes that are not UTF-8 become halves of surrogate pairs."""
    newline = "" if file.suffix == ".csv" else "\n"
    return open(file, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _check_columns(file: Path) -> None:
    with _open(file) as opened:
        try:
            columns = next(csv.reader(opened), [])
        except csv.Error as error:
            raise DataError(f"{file} cannot be read as CSV: {error}") from None
    if not set(columns) & set(FILE_FIELDS) or not set(columns) & set(CAPTION_FIELDS):
        shown = ", ".join(columns)[:200].encode("utf-8", "replace").decode()
        raise DataError(
            f"{file} has the columns {shown or '(none)'} in its first line; expected one of "
            f"{', '.join(FILE_FIELDS)} and one of {', '.join(CAPTION_FIELDS)}"
        )


def _json_lines(opened: IO[str]) -> Iterator[dict[str, Any] | str]:
    """Yield the object of each line that is not empty, or why there is none."""
    for line in opened:
        if SURROGATE.search(line):
            yield "not UTF-8"
        elif line.strip(string.whitespace):
            try:
                entry = json.loads(line)
                yield entry if isinstance(entry, dict) else "not a JSON object"
            except (ValueError, RecursionError):
                yield "not JSON"


def _csv_lines(opened: IO[str]) -> Iterator[dict[str, Any] | str]:
    """Yield the fields of each line, or why it cannot be used."""
    rows = csv.DictReader(opened)
    while True:
        try:
            row = next(rows)
            yield "not UTF-8" if any(SURROGATE.search(str(value)) for value in row.values()) else row
        except StopIteration:
            return
        except csv.Error as error:  # the reader continues with the next line
            yield f"not CSV ({error})"
