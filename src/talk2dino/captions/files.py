"""Read the files that a caption source names."""

from __future__ import annotations

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
