"""Webdataset tars, as img2dataset writes them."""

from __future__ import annotations

import json
import tarfile
from array import array
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

from talk2dino.captions.files import Fingerprint, printable
from talk2dino.captions.index import TextList, hash64, is_repeated
from talk2dino.captions.source import IndexedSource, Record, Skipped, find_captions, make_record
from talk2dino.errors import DataError
from talk2dino.io.find import IMAGE_ENDINGS

_PARTS = ("image", "txt", "json")
_SHOWN = 8  # endings named in a message


class WebDatasetSource(IndexedSource):
    """Tars of samples: NAME.jpg with NAME.txt (one caption per line) or NAME.json ('caption', preferred).

    Raises:
        DataError: no tar holds an image, or none holds captions.
    """

    def __init__(self, *files: Path) -> None:
        self._tars = [_TarIndex(file) for file in files]
        _check_contents(self._tars)
        content, hashes = Fingerprint(), array("Q")
        for tar in self._tars:
            content.add_size(tar.path.parent, tar.path.name)
            for name in tar.names:
                content.add(name)
            content.add(tar.places.tobytes())
            hashes.extend(map(hash64, tar.names))
            hashes.extend([0] if tar.damage else [])
        self._repeated = is_repeated(hashes)
        self._ends = list(accumulate(len(tar.names) + bool(tar.damage) for tar in self._tars))
        self.describe("tar", content, files=[printable(file.name) for file in files])
        self.notes = [
            f"{tar.path.name}: {tar.damage}; the rest of it is lost and counts as one record"
            for tar in self._tars
            if tar.damage
        ]

    def __len__(self) -> int:
        return self._ends[-1]

    def record(self, number: int) -> Record | Skipped:
        place = bisect_right(self._ends, number)
        tar, sample = self._tars[place], number - (self._ends[place - 1] if place else 0)
        if sample == len(tar.names):
            return Skipped(printable(tar.path.name), tar.damage or "")
        if self._repeated[number]:
            return Skipped(printable(tar.names[sample]), "repeated sample name: its first sample is used")
        return tar.record(sample)


class _TarIndex:
    """Where the samples of one tar lie: a few dozen bytes per sample, without their contents.

    Attributes:
        names: of the samples, including their folder.
        places: offset and size of the image, the .txt and the .json of each sample; an offset of 0 if it is missing.
        damage: why the rest of the tar cannot be read.
        others: endings of files that are no part of a sample.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.names, self.places = path, TextList(), array("q")
        self.damage: str | None = None
        self.others: dict[str, None] = {}
        numbers: dict[str, int] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in filter(tarfile.TarInfo.isfile, tar):
                    self._add(member, numbers)
                    tar.members = []  # type: ignore[attr-defined]  # it would remember every header
                if not _ends_at(path, tar.offset):
                    raise EOFError("no end mark where the next header should be")
        except (tarfile.TarError, EOFError, OSError) as error:
            self.damage = f"the tar is truncated or damaged after {len(self.names)} samples ({error})"

    def _add(self, member: tarfile.TarInfo, numbers: dict[str, int]) -> None:
        folder, _, base = member.name.rpartition("/")
        stem, _, ending = base.partition(".")
        ending = ending.lower()
        part = "image" if f".{ending}" in IMAGE_ENDINGS else ending
        if part not in _PARTS:
            if len(self.others) < _SHOWN:
                self.others[f".{ending}"] = None
            return
        name = f"{folder}/{stem}" if folder else stem
        column = 2 * _PARTS.index(part)
        if name not in numbers or self.places[6 * numbers[name] + column]:  # the same part again: another sample
            numbers[name] = len(self.names)
            self.names.append(name)
            self.places.extend((0,) * 6)
        start = 6 * numbers[name] + column
        self.places[start], self.places[start + 1] = member.offset_data, member.size

    def has(self, *parts: str) -> bool:
        """Whether any sample has one of these parts."""
        return any(any(self.places[2 * _PARTS.index(part) :: 6]) for part in parts)

    def record(self, sample: int) -> Record | Skipped:
        key = printable(self.names[sample])
        image, image_size, txt, txt_size, entry, entry_size = self.places[6 * sample : 6 * sample + 6]
        if not image:
            return Skipped(key, f"no image of that name in {self.path.name}")
        captions: object = None
        try:
            if entry and isinstance(fields := json.loads(self._read(entry, entry_size).decode("utf-8-sig")), dict):
                captions = find_captions(fields)
            if captions is None and txt:
                captions = self._read(txt, txt_size).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            return Skipped(key, "its captions are not UTF-8")
        except (ValueError, RecursionError) as error:
            return Skipped(key, f"its captions cannot be read ({error})")
        return make_record(key, captions, lambda: self._read(image, image_size))

    def _read(self, offset: int, size: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise DataError(f"{self.path.name} ends inside it")
        return content


def _ends_at(path: Path, offset: int) -> bool:
    """Whether a tar's end mark, a block of zeros, stands at an offset; tarfile takes a damaged header for the end."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _check_contents(tars: list[_TarIndex]) -> None:
    path = tars[0].path if len(tars) == 1 else tars[0].path.parent
    if not any(tar.has("image") for tar in tars):
        held = next((tar.damage for tar in tars if tar.damage), "it is empty")
        if others := list(dict.fromkeys(ending for tar in tars for ending in tar.others)):
            held = f"it holds {', '.join(others[:_SHOWN])} files"
        raise DataError(
            f"{path} holds no images: {held}; expected NAME.jpg with NAME.txt or NAME.json. Features of the published "
            "extraction are not captions: give them to 'talk2dino store convert'"
        )
    if not any(tar.has("txt", "json") for tar in tars):
        raise DataError(f"{path} holds images without captions; expected NAME.txt or NAME.json beside NAME.jpg")
