"""Image folders with a .txt file of captions beside each image."""

from __future__ import annotations

import os
from pathlib import Path

from talk2dino.captions.files import Fingerprint, file_reader, printable, read_file
from talk2dino.captions.index import TextList
from talk2dino.captions.source import IndexedSource, Record, Skipped, make_record
from talk2dino.errors import DataError
from talk2dino.io.find import IMAGE_ENDINGS


class TextFileSource(IndexedSource):
    """A folder of images at any depth, each with a .txt file of the same name: one caption per line.

    Hidden files are left out.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._names, content = folder, TextList(), Fingerprint()
        for name in sorted(
            os.path.relpath(os.path.join(place, name), folder)
            for place, _, names in os.walk(folder)
            for name in names
            if os.path.splitext(name)[1].lower() in IMAGE_ENDINGS and not name.startswith(".")
        ):
            self._names.append(name)
            content.add_size(folder, name)
            content.add_size(folder, os.path.splitext(name)[0] + ".txt")
        self.describe("txt", content, folder=printable(folder.name))

    def __len__(self) -> int:
        return len(self._names)

    def record(self, number: int) -> Record | Skipped:
        name = self._names[number]
        key = printable(name)
        try:
            text = read_file((self._folder / name).with_suffix(".txt")).decode("utf-8-sig")
        except FileNotFoundError:
            return Skipped(key, "no .txt file of the same name")
        except UnicodeDecodeError:
            return Skipped(key, "its captions are not UTF-8")
        except (OSError, DataError) as error:
            return Skipped(key, f"its captions cannot be read: {getattr(error, 'strerror', None) or error}")
        return make_record(key, text.splitlines(), file_reader(self._folder, name))
