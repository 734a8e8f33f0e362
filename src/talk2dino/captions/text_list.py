"""A list of texts in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload


class TextList(Sequence[str]):
    """A list of texts that only grows: 8 bytes per text besides its characters, where a list of str takes 60 or more."""

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
