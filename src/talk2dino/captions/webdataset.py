"""Caption sources that hold pictures and captions in one file: webdataset tars."""

from __future__ import annotations

import json
import tarfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from talk2dino.captions.compact import Texts
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
from talk2dino.errors import DataError
from talk2dino.io.images import IMAGE_ENDINGS

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
        content = Fingerprint()
        for tar in self._tars:
            content.add_size(tar.path.parent, tar.path.name)
            for name in tar.names:
                content.add(name)
            content.add(tar.places.tobytes())
        hashes = array("Q")
        for tar in self._tars:
            hashes.extend(map(key_hash, tar.names))
            hashes.extend([0] if tar.damage else [])
        self._count, self._again = len(hashes), repeated(hashes)
        self.description = {
            "kind": "tar",
            "files": [file.name for file in files],
            "records": self._count,
            "content": str(content),
        }
        self.notes = [
            f"{tar.path.name}: {tar.damage}; what lies behind is lost, and counts as one record"
            for tar in self._tars
            if tar.damage
        ]

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
