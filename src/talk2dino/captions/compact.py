"""Large lists in little memory: texts in one block of bytes, and a JSON file read an entry at a time."""

from __future__ import annotations

import codecs
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, overload

from talk2dino.errors import DataError

#: Characters read at once; an entry may be longer.
PIECE = 1 << 20
_SPACE = " \t\n\r"
_AFTER = tuple(_SPACE + ",]}")


class Texts(Sequence[str]):
    """A list of texts that only grows: some 8 bytes a text besides its own, where a list of str takes 60 and more."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._content = bytearray()
        self._ends = array("q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        self._content += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._content))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[n] for n in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        start = self._ends[place - 1] if place else 0
        return self._content[start : self._ends[place]].decode("utf-8", "surrogatepass")


def json_entries(file: Path, lists: Sequence[str], found: set[str]) -> Iterator[tuple[str, Any]]:
    """(name, entry) for each entry of some lists of the object that a JSON file holds, in the order of the file.

    Only one entry is in memory at a time.

    Args:
        lists: names of the lists.
        found: is given the names of those that are there, also of empty ones.

    Raises:
        DataError: not UTF-8, or not JSON.
    """
    try:
        with open(file, "rb") as opened:
            yield from _Reader(opened).members(lists, found)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 ({error.reason}); convert it first") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from None


class _Reader:
    """JSON in pieces; ``text`` holds what was read and not yet used, from ``place`` on."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.text, self.place, self.ended, self.read = file, "", 0, False, 0
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.parse = json.JSONDecoder().raw_decode

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        if self.ended:
            return False
        piece = self.file.read(max(PIECE, len(self.text) - self.place))  # twice as much for an entry that is longer
        self.ended = not piece
        self.text = self.text[self.place :] + self._decoded(piece)
        self.place = 0
        return True

    def _decoded(self, piece: bytes) -> str:
        try:
            return self.decode(piece, final=self.ended)
        except UnicodeDecodeError as error:
            error.reason = f"byte {self.read + len(piece) - len(error.object) + error.start}"
            raise
        finally:
            self.read += len(piece)

    def sign(self) -> str:
        """The next character that is no space, without using it up; "" at the end of the file."""
        while True:
            while self.place < len(self.text) and self.text[self.place] in _SPACE:
                self.place += 1
            if self.place < len(self.text):
                return self.text[self.place]
            if not self.more():
                return ""

    def expect(self, signs: str) -> str:
        found = self.sign()
        if not found or found not in signs:
            raise ValueError(f"expected {' or '.join(signs)}, found {found or 'the end of the file'}")
        self.place += 1
        return found

    def value(self) -> Any:
        """The next whole value."""
        self.sign()
        while True:
            try:
                found, end = self.parse(self.text, self.place)
                goes_on = isinstance(found, (int, float)) and self.text[end : end + 1] not in _AFTER
                if not (goes_on or end == len(self.text)) or not self.more():  # a number may go on in the next piece
                    self.place = min(end, len(self.text))
                    return found
            except json.JSONDecodeError as error:
                if not self.more():
                    raise ValueError(error.msg + ", or the file is cut off") from None

    def members(self, lists: Sequence[str], found: set[str]) -> Iterator[tuple[str, Any]]:
        """The entries of some lists; nothing when this is no object."""
        first = self.sign()
        if not first:
            raise ValueError("it is empty")
        if first != "{":
            return
        self.place += 1
        if self.sign() == "}":
            return
        closed = False
        while not closed:
            name = self.value()
            if not isinstance(name, str):
                raise ValueError(f"a name is {name!r:.40}")
            self.expect(":")
            if name in lists and self.sign() == "[":
                found.add(name)
                for entry in self.entries():
                    yield name, entry
            else:
                self.value()
            closed = self.expect(",}") == "}"
        if self.sign():
            raise ValueError("it goes on after its end")

    def entries(self) -> Iterator[Any]:
        self.expect("[")
        if self.sign() == "]":
            self.place += 1
            return
        while True:
            yield self.value()
            if self.expect(",]") == "]":
                return
