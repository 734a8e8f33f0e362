"""Read the lists of a large JSON file one entry at a time.

Written by hand, because ``ijson`` (C backend) refuses files that ``json.dump`` writes: ``NaN``, which pandas gives for a
missing caption, and integers over 64 bits. It also turns half a surrogate pair into "?", so that a damaged caption would
be used. Measured on a COCO file of 66 MB with 600,000 entries: this reader 0.93 s and 5 MB, ``ijson.items`` 0.83 s (but
100,000 nested brackets take all memory), ``ijson.basic_parse`` 1.65 s, both below 1 MB; ``json.load`` 0.45 s and 287 MB.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from talk2dino.errors import DataError

#: Characters read at once; an entry may be longer.
PIECE = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")
_DELIMITERS = frozenset(" \t\n\r,:]}")


def json_entries(file: Path, lists: Collection[str], found: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield (list name, entry) for each entry of the named lists of a JSON object, in the order of the file.

    Only one entry is in memory at a time. Nothing is yielded if the file holds another value than an object. ``found``
    receives the names of the lists that exist, also of empty ones.

    Raises:
        DataError: the file is not UTF-8 or not JSON.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            yield from _JsonReader(opened).lists(lists, found)
    except UnicodeDecodeError as error:
        near = error.object[max(0, error.start - 30) : error.end + 10].decode("utf-8", "backslashreplace")
        raise DataError(f"{file} is not UTF-8 (near {near!r}); convert it first") from None
    except RecursionError:
        raise DataError(f"{file} cannot be read as JSON: too many nested brackets") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from None


class _JsonReader:
    """JSON read in pieces; ``text`` holds the characters that are not used yet, from ``place`` on."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.text, self.place = file, "", 0
        self.parse = json.JSONDecoder().raw_decode

    def read_on(self) -> bool:
        piece = self.file.read(max(PIECE, len(self.text) - self.place))  # doubles for an entry that is longer
        self.text, self.place = self.text[self.place :] + piece, 0
        return bool(piece)

    def peek(self) -> str:
        """The next character that is not a space, without using it up; "" at the end of the file."""
        while True:
            self.place = _SPACE.match(self.text, self.place).end()  # type: ignore[union-attr]
            if self.place < len(self.text) or not self.read_on():
                return self.text[self.place : self.place + 1]

    def take(self, expected: str) -> str:
        character = self.peek()
        if not character or character not in expected:
            raise ValueError(f"expected {' or '.join(expected)}, found {character or 'the end of the file'}")
        self.place += 1
        return character

    def value(self) -> Any:
        """The next whole value."""
        self.peek()
        while True:
            try:
                value, end = self.parse(self.text, self.place)
                if self.text[end : end + 1] in _DELIMITERS:  # otherwise a number may go on in the next piece
                    self.place = end
                    return value
                problem = "expected a comma or bracket after a value"
            except json.JSONDecodeError as error:
                problem = error.msg
            if not self.read_on():
                raise ValueError(f"{problem}, or the file is cut off")

    def lists(self, names: Collection[str], found: set[str]) -> Iterator[tuple[str, Any]]:
        if not self.peek():
            raise ValueError("it is empty")
        if self.peek() != "{":
            return
        for _ in self.items("{}"):
            name = self.value()
            if not isinstance(name, str):
                raise ValueError(f"a name is {name!r:.40}")
            self.take(":")
            if name in names and self.peek() == "[":
                found.add(name)
                for _ in self.items("[]"):
                    yield name, self.value()
            else:
                self.value()
        if self.peek():
            raise ValueError("it goes on after its end")

    def items(self, brackets: str) -> Iterator[None]:
        """Stop before each item of an object or list; the caller reads it."""
        self.take(brackets[0])
        if self.peek() != brackets[1]:
            yield
            while self.take("," + brackets[1]) == ",":
                yield
        else:
            self.take(brackets[1])
