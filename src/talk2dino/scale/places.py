"""A folder that may be local or in object storage: whole files in, whole files out.

Files are small enough to be held in memory and appear whole or not at all: locally by writing to a temporary name and
renaming, in object storage because an upload is visible only when it is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from talk2dino.errors import DataError, InputError, MissingExtraError, OutputError, Talk2DinoError
from talk2dino.io.atomic import remove_leftovers, write_atomically

T = TypeVar("T")

#: Times a request is sent before its error is reported, and seconds before the second time; they double.
ATTEMPTS, FIRST_WAIT = 5, 0.2
#: Errors that another attempt cannot change.
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, Talk2DinoError)


class Place:
    """A folder at a local path or an fsspec URI such as ``s3://bucket/folder``.

    Credentials come from the environment, as the library of the storage reads them, and are never written.

    Args:
        uri: a path, or ``PROTOCOL://...``.

    Raises:
        InputError: an unknown protocol. MissingExtraError: the library of the protocol is not installed.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        import fsspec

        self.uri = os.fspath(uri).rstrip("/") or "/"
        try:
            self.fs, root = fsspec.core.url_to_fs(self.uri)
        except ValueError as error:
            raise InputError(
                f"{self.uri} names no known storage ({error}): give a folder, s3://..., gs://... or hf://..."
            ) from None
        except ImportError as error:
            raise MissingExtraError(f"{self.uri} needs another package: {error}") from None
        self.root = str(root).rstrip("/")
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def __repr__(self) -> str:
        return f"Place({self.uri!r})"

    def path(self, name: str = "") -> str:
        """The address of a file as the file system takes it."""
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises DataError if there is none."""
        return self._do(f"read {name}", lambda: bytes(self.fs.cat_file(self.path(name))))

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on."""
        content = self._do(
            f"read {name}", lambda: bytes(self.fs.cat_file(self.path(name), start=offset, end=offset + size))
        )
        if len(content) != size:
            raise DataError(f"{self.uri}/{name} ends before byte {offset + size:,}: it changed since it was listed")
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; one of the same name is replaced."""
        if self.local:
            self._do(f"write {name}", lambda: write_atomically(self.path(name), content), OutputError)
        else:
            self._do(f"write {name}", lambda: self.fs.pipe_file(self.path(name), content), OutputError)

    def exists(self, name: str) -> bool:
        return self._do(f"look for {name}", lambda: bool(self.fs.exists(self.path(name))))

    def names(self, folder: str) -> dict[str, int]:
        """Names and sizes in bytes of the files directly in a folder; none if there is no such folder."""

        def find() -> dict[str, int]:
            self.fs.invalidate_cache()
            try:
                entries = self.fs.ls(self.path(folder), detail=True)
            except FileNotFoundError:
                return {}
            sizes = {e["name"].rpartition("/")[2]: int(e["size"] or 0) for e in entries if e["type"] == "file"}
            return {
                name: size for name, size in sizes.items() if not name.startswith(".")
            }  # temporary files are hidden

        return self._do(f"list {folder}", find)

    def remove_leftovers(self, *folders: str) -> None:
        """Delete temporary files that killed processes left in local folders an hour ago or earlier."""
        for folder in folders if self.local else ():
            remove_leftovers(self.path(folder), older=3600)

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(self.path(name))

        self._do(f"remove {name}", remove, OutputError)

    def read_json(self, name: str) -> dict[str, object]:
        """A JSON object. Raises DataError if the file is damaged or holds something else."""
        content = self.read(name)
        try:
            found = json.loads(content)
        except ValueError as error:
            raise DataError(f"{self.uri}/{name} is damaged: {error}") from None
        if not isinstance(found, dict):
            raise DataError(f"{self.uri}/{name} is damaged: expected a JSON object")
        return found

    def write_json(self, name: str, values: dict[str, object]) -> None:
        self.write(name, json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n")

    def _do(self, what: str, action: Callable[[], T], kind: type[Talk2DinoError] = DataError) -> T:
        """Run an action, again after passing errors; what remains becomes one sentence."""
        for delay in (*waits(), None):
            try:
                return action()
            except FINAL as error:
                raise self._sentence(what, error, kind) from error
            except Exception as error:  # libraries of storages raise their own kinds
                if delay is None:
                    raise self._sentence(what, error, kind) from error
                time.sleep(delay)
        raise AssertionError("unreachable")

    def _sentence(self, what: str, error: Exception, kind: type[Talk2DinoError]) -> Talk2DinoError:
        if isinstance(error, Talk2DinoError):
            return error
        if isinstance(error, FileNotFoundError):
            return kind(f"cannot {what} at {self.uri}: there is no such file, folder or bucket")
        if isinstance(error, PermissionError):
            return kind(f"cannot {what} at {self.uri}: permission denied; check the credentials in the environment")
        return kind(f"cannot {what} at {self.uri}: {' '.join(str(error).split()) or type(error).__name__}")


def waits() -> Iterator[float]:
    """Seconds before each further attempt, longer and longer, with a random part so that workers do not return together."""
    for attempt in range(ATTEMPTS - 1):
        yield FIRST_WAIT * 2**attempt * (0.5 + random.random())
