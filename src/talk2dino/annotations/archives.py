"""Archives and XML from elsewhere, without the tricks: nothing is unpacked to disk, and bombs are refused.

- ZIP: members are read by name into memory; a member that is huge and was compressed more than 500 times is refused.
- XML: document types and entities, which no labelling tool writes, are refused; elements are read one at a time.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from talk2dino.errors import DataError
from talk2dino.io.names import readable

_LARGE = 64 * 2**20
_RATIO = 500
_LARGEST = 4 * 2**30


class Archive:
    """The members of a ZIP file, or of a folder with the same content."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if path.is_dir():
            return
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(f"cannot read {readable(path)}: not a ZIP file, or damaged ({error})") from None

    def names(self) -> list[str]:
        """Files, with "/" between folders, relative to the archive."""
        if self._zip is None:
            return sorted(p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file())
        return [info.filename.replace("\\", "/") for info in self._zip.infolist() if not info.is_dir()]

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """One file, to be read.

        Raises:
            DataError: no such file, damaged, encrypted, or a bomb.
        """
        where = f"{readable(self.path)}: {name}"
        try:
            if self._zip is None:
                with (self.path / name).open("rb") as file:
                    yield file
                return
            info = self._zip.getinfo(name)
            if info.file_size > _LARGEST or (info.file_size > _LARGE and info.file_size > _RATIO * info.compress_size):
                raise DataError(
                    f"{where} would grow from {info.compress_size:,} to {info.file_size:,} bytes: refused as a ZIP bomb"
                )
            with self._zip.open(info) as member:
                yield member
        except (KeyError, FileNotFoundError):
            raise DataError(f"{readable(self.path)} has no file {name}") from None
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise DataError(f"cannot read {where}: {error}") from None

    def read(self, name: str) -> bytes:
        """The content of one file; errors as :meth:`open`."""
        with self.open(name) as file:
            return file.read()

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_elements(file: IO[bytes], tags: tuple[str, ...], where: str, *, root: str) -> Iterator[Element]:
    """The elements of some names, each as soon as it is complete, and then forgotten.

    Raises:
        DataError: not XML, another root element, a document type or an entity.
    """
    ready: list[Element] = []
    reader = _Reader(ready, tags, where, root)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = _refuser(where)
    try:
        while block := file.read(2**16):
            parser.Parse(block, False)
            yield from ready
            ready.clear()
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise DataError(f"{where} is not XML, or damaged: {error}") from None
    yield from ready


def _refuser(where: str) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise DataError(f"{where} declares a document type or entities, which no labelling tool writes: refused")

    return refuse


class _Reader:
    """Builds the wanted elements; everything around them is dropped."""

    def __init__(self, ready: list[Element], tags: tuple[str, ...], where: str, root: str) -> None:
        self.ready, self.tags, self.where, self.root = ready, tags, where, root
        self.depth = self.inside = 0
        self.builder = TreeBuilder()

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if self.depth == 0 and tag != self.root:
            raise DataError(f"{self.where}: the root element is <{tag}>, expected <{self.root}>")
        self.depth += 1
        if self.depth > 100:
            raise DataError(f"{self.where}: elements are nested more than 100 deep")
        if self.inside or tag in self.tags:
            self.inside += 1
            self.builder.start(tag, attributes)

    def text(self, data: str) -> None:
        if self.inside:
            self.builder.data(data)

    def end(self, tag: str) -> None:
        self.depth -= 1
        if self.inside:
            self.builder.end(tag)
            self.inside -= 1
            if not self.inside:
                self.ready.append(self.builder.close())
                self.builder = TreeBuilder()
