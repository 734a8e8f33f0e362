"""JSON documents that are written item by item, so that a data set never has to be in memory."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from talk2dino.io.atomic import atomic_path


def dumps(value: object) -> str:
    """One line of JSON; bytes of file names that are not UTF-8 are escaped."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


class JsonStream:
    """A JSON document with one long array, one item per line; the file appears when it is complete.

    Args:
        path: the file. head, tail: what stands before and after the items.

    Use it as a context; if the block raises an error, nothing is left behind. ``tail`` may be set inside the block.
    """

    def __init__(self, path: Path, head: str, tail: str) -> None:
        self.path, self.head, self.tail = path, head, tail
        self.count = 0
        self._stack = contextlib.ExitStack()
        self._file: IO[str] | None = None

    def __enter__(self) -> JsonStream:
        temporary = self._stack.enter_context(atomic_path(self.path))
        self._file = self._stack.enter_context(open(temporary, "w", encoding="utf-8"))
        self._file.write(self.head)
        return self

    def add(self, item: Any) -> None:
        """Append one item."""
        assert self._file is not None, "use JsonStream as a context"
        self._file.write((",\n" if self.count else "\n") + dumps(item))
        self.count += 1

    def write(self, text: str) -> None:
        """Write text as it is."""
        assert self._file is not None, "use JsonStream as a context"
        self._file.write(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is None and self._file is not None:
            self._file.write(f"\n{self.tail}\n")
        return self._stack.__exit__(kind, error, trace)
