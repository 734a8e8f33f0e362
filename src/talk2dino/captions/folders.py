"""Folders of pictures whose captions stand in .txt files, or in one metadata.jsonl or metadata.csv."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from talk2dino.captions.compact import Texts
from talk2dino.captions.grouped import GroupedRows
from talk2dino.captions.source import (
    CAPTION_FIELDS,
    FILE_FIELDS,
    CaptionSource,
    Fingerprint,
    Record,
    Skipped,
    file_reader,
    key_hash,
    make_record,
)
from talk2dino.errors import DataError
from talk2dino.io.images import IMAGE_ENDINGS


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
        content = Fingerprint()
        for name in self._names:
            content.add_size(folder, name)
            content.add_size(folder, os.path.splitext(name)[0] + ".txt")
        self.description = {"kind": "txt", "folder": folder.name, "records": len(self), "content": str(content)}

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
    """A folder with metadata.jsonl or metadata.csv, as Hugging Face's imagefolder has it; a line a picture or a caption.

    Lines of one file name are one record, numbered where the first of them stands.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._check_columns()
        content = Fingerprint()
        content.add_file(file)
        names, lines = array("Q"), array("Q")
        for name, captions in self._entries():
            if isinstance(name, str):
                content.add_size(file.parent, name)
            names.append(key_hash(name) if isinstance(name, str) else 0)
            lines.append(key_hash(repr((name, captions))) if isinstance(name, str) else 0)
        self._rows = GroupedRows(names, lines)
        if self._rows.has_further:
            for row, (_, captions) in enumerate(self._entries()):
                self._rows.add(row, captions)
        self.description = {
            "kind": file.suffix[1:],
            "folder": file.parent.name,
            "records": len(self),
            "content": str(content),
        }

    def __len__(self) -> int:
        return len(self._rows)

    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        number = -1
        for row, (name, captions) in enumerate(self._entries()):
            if self._rows.is_further(row):
                continue
            number += 1
            if not wanted(number):
                continue
            if isinstance(name, Skipped):
                yield number, name
            elif self._rows.is_again(row):
                yield number, Skipped(name, "a line of the same name and captions: its first one is used")
            else:
                captions = self._rows.captions(row, captions)
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
