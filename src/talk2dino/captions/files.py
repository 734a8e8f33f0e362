"""Read the files that a caption source names, and recognise a source whose captions or images have changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from talk2dino.errors import DataError


def read_file(path: Path) -> bytes:
    """The content of a regular file; a named pipe would never end.

    Raises:
        DataError: not a regular file. OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path.name} is not a regular file")
    return path.read_bytes()


def file_reader(folder: Path, name: str) -> Callable[[], bytes]:
    """A function that reads an image of a folder. Names that lead out of the folder raise DataError."""

    def read() -> bytes:
        if os.path.isabs(name) or Path(os.path.normpath(name)).parts[:1] == ("..",):
            raise DataError(f"{name} leads out of {folder}")
        return read_file(folder / name)

    return read


def printable(name: str) -> str:
    r"""A file name as valid Unicode: bytes that are not UTF-8 are written as ``\udcXX``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


class Fingerprint:
    """16 hexadecimal digits for the content of a source: captions by content, images by name and size.

    Times and folders do not count, so a copy on another machine has the same fingerprint. Feature stores hold the
    fingerprint of their source; do not change how it is computed.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, *values: object) -> None:
        self._digest.update(repr(values).encode("utf-8", "surrogatepass"))

    def add_file(self, path: Path) -> None:
        """Add the content of a file."""
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                self._digest.update(piece)

    def add_size(self, folder: Path, name: str) -> None:
        """Add the name and size of a file, or the name alone if there is no such file."""
        try:
            self.add(name, os.stat(os.path.join(folder, name)).st_size)
        except (OSError, ValueError):
            self.add(name, None)

    def __str__(self) -> str:
        return self._digest.hexdigest()[:16]
