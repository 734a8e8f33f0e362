"""Recognise a source whose captions or images have changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


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

    def add_size(self, folder: Path | str, name: str) -> None:
        """Add the name and size of a file, or the name alone if there is no such file."""
        try:
            self.add(name, os.stat(os.path.join(folder, name)).st_size)
        except (OSError, ValueError):
            self.add(name, None)

    def __str__(self) -> str:
        return self._digest.hexdigest()[:16]
