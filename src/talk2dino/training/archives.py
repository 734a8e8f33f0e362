"""Caption sources that hold pictures and captions in one file: webdataset tars and parquet."""

from __future__ import annotations

import json
import tarfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from talk2dino.errors import DataError, MissingExtraError
from talk2dino.io.images import IMAGE_ENDINGS
from talk2dino.training.captions import (
    CAPTION_FIELDS,
    CaptionSource,
    Record,
    Skipped,
    key_hash,
    make_record,
    repeated,
)
from talk2dino.training.compact import Texts

_PARTS = ("image", "txt", "json")


class _TarIndex:
    """Where the samples of one tar lie; a few dozen bytes a sample, nothing of their contents."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = Texts()
        self.places = array("q")  # image offset, size, txt offset, size, json offset, size of each sample
        self.damage: str | None = None
        numbers: dict[str, int] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    self._add(member, numbers)
                    tar.members = []  # type: ignore[attr-defined]  # or it remembers every header
                end = tar.offset  # where no further header was found
        except (tarfile.TarError, EOFError, OSError) as error:
            self.damage = f"the tar is truncated or damaged after {len(self.names)} samples ({error})"
        if self.damage is None and not _ends_here(path, end):
            self.damage = f"the tar is damaged or truncated after {len(self.names)} samples"

    def _add(self, member: tarfile.TarInfo, numbers: dict[str, int]) -> None:
        folder, _, base = member.name.rpartition("/")
        stem, _, ending = base.partition(".")
        ending = ending.lower()
        part = "image" if f".{ending}" in IMAGE_ENDINGS else ending
        if not member.isfile() or part not in _PARTS:
            return
        key = f"{folder}/{stem}" if folder else stem
        column = 2 * _PARTS.index(part)
        if key in numbers and self.places[6 * numbers[key] + column]:
            numbers.pop(key)  # the same part again: a second sample of that name
        if key not in numbers:
            numbers[key] = len(self.names)
            self.names.append(key)
            self.places.extend((0,) * 6)
        start = 6 * numbers[key] + column
        self.places[start], self.places[start + 1] = member.offset_data, member.size


def _ends_here(path: Path, offset: int) -> bool:
    """Whether a tar's end mark, a block of zeros, stands at an offset; tarfile takes a damaged header for the end."""
    with open(path, "rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
    return len(block) == tarfile.BLOCKSIZE and not any(block)


class WebDataset(CaptionSource):
    """Tars as img2dataset writes them: NAME.jpg with NAME.txt (a caption a line) and / or NAME.json ('caption')."""

    def __init__(self, files: list[Path]) -> None:
        self._tars = [_TarIndex(file) for file in files]
        hashes = array("Q")
        for tar in self._tars:
            hashes.extend(map(key_hash, tar.names))
            hashes.extend([0] if tar.damage else [])
        self._count, self._again = len(hashes), repeated(hashes)
        self.description = {"kind": "tar", "files": [file.name for file in files], "records": self._count}

    def __len__(self) -> int:
        return self._count

    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        start = 0
        for tar in self._tars:
            count = len(tar.places) // 6
            for n in range(count):
                if not wanted(start + n):
                    continue
                if start + n in self._again:
                    yield start + n, Skipped(tar.names[n], "duplicate id: its first sample is used")
                else:
                    yield start + n, _tar_record(tar.path, tar.names[n], tar.places[6 * n : 6 * n + 6])
            start += count
            if tar.damage:
                if wanted(start):
                    yield start, Skipped(tar.path.name, tar.damage)
                start += 1


def _tar_record(path: Path, name: str, places: array) -> Record | Skipped:
    if not places[0]:
        return Skipped(name, f"no picture of that name in {path.name}")
    captions: Any = None
    try:
        if places[4]:
            entry = json.loads(_piece(path, places[4], places[5]).decode("utf-8-sig"))
            captions = (
                next((entry[f] for f in CAPTION_FIELDS if entry.get(f)), None) if isinstance(entry, dict) else None
            )
        if captions is None and places[2]:
            captions = _piece(path, places[2], places[3]).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return Skipped(name, "its captions are not UTF-8")
    except (ValueError, DataError) as error:
        return Skipped(name, f"its captions cannot be read ({error})")
    offset, size = places[0], places[1]
    return make_record(name, captions, lambda: _piece(path, offset, size))


def _piece(path: Path, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) != size:
        raise DataError(f"{path.name} ends inside it")
    return content


class Parquet(CaptionSource):
    """Parquet files with a column of picture bytes (plain, or Hugging Face's struct of bytes and path) and captions."""

    def __init__(self, files: list[Path]) -> None:
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise MissingExtraError.of("pyarrow", "parquet", "reading parquet files") from None
        self._open, self._files = parquet.ParquetFile, files
        self._counts: list[int] = []
        for file in files:
            try:
                with parquet.ParquetFile(file) as opened:
                    self._columns(file, opened.schema_arrow.names)
                    self._counts.append(opened.metadata.num_rows)
            except (OSError, ValueError) as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(f"{file} cannot be read as parquet: {error}") from error
        self.description = {"kind": "parquet", "files": [file.name for file in files], "records": len(self)}

    @staticmethod
    def _columns(file: Path, names: list[str]) -> tuple[str, str]:
        image = next(
            (name for name in ("image", "jpg", "image_bytes", "bytes", "png", "content") if name in names), None
        )
        caption = next((name for name in CAPTION_FIELDS if name in names), None)
        if image is None or caption is None:
            raise DataError(
                f"{file} has the columns {', '.join(names)}; expected one of image, jpg, bytes with the picture's "
                f"bytes and one of {', '.join(CAPTION_FIELDS)}"
            )
        return image, caption

    def __len__(self) -> int:
        return sum(self._counts)

    def records(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[tuple[int, Record | Skipped]]:
        start = 0
        for file, count in zip(self._files, self._counts, strict=True):
            if any(wanted(start + n) for n in range(count)):
                yield from self._rows(file, start, wanted)
            start += count

    def _rows(self, file: Path, start: int, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Record | Skipped]]:
        with self._open(file) as opened:
            columns = self._columns(file, opened.schema_arrow.names)
            for group in range(opened.num_row_groups):
                rows = opened.metadata.row_group(group).num_rows
                if any(wanted(start + n) for n in range(rows)):
                    place = start
                    try:
                        for batch in opened.iter_batches(64, row_groups=[group], columns=list(columns)):
                            for n in range(batch.num_rows):
                                if wanted(place):
                                    yield place, _parquet_row(f"{file.name}:{place}", batch, n, columns)
                                place += 1
                    except (OSError, ValueError) as error:  # what pyarrow raises for a damaged page
                        reason = f"its part of {file.name} is damaged ({' '.join(str(error).split())})"
                        for number in filter(wanted, range(place, start + rows)):
                            yield number, Skipped(f"{file.name}:{number}", reason)
                start += rows


def _parquet_row(key: str, batch: Any, row: int, columns: tuple[str, str]) -> Record | Skipped:
    try:
        return _parquet_record(key, *(batch.column(name)[row].as_py() for name in columns))
    except UnicodeDecodeError:
        return Skipped(key, "its captions are not UTF-8")


def _parquet_record(key: str, image: Any, captions: Any) -> Record | Skipped:
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        return Skipped(key, "no picture bytes in its row")
    return make_record(key, captions, lambda: content)
