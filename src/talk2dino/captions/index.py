"""What the index of a source is made of: texts in one block of bytes, and keys by their 64-bit hashes."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


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


def hash64(key: str) -> int:
    """A 64-bit hash of a text. In the functions below, 0 stands for a missing key, which equals no other key."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def is_repeated(hashes: array | np.ndarray) -> np.ndarray:
    """(N,) bool: whether an equal hash stands before this one."""
    order, begins = _runs(hashes)
    repeated = np.empty(len(order), dtype=bool)
    repeated[order] = ~begins
    return repeated


def first_places(hashes: array | np.ndarray) -> np.ndarray:
    """(N,) uint32: for each hash, the place of the first equal one."""
    order, begins = _runs(hashes)
    first = np.empty(len(order), dtype=np.uint32)
    first[order] = order[begins].astype(np.uint32)[np.cumsum(begins, dtype=np.uint32) - 1]
    return first


def is_shared(hashes: array | np.ndarray) -> np.ndarray:
    """(N,) bool: whether a hash occurs more than once."""
    first, shared = first_places(hashes), is_repeated(hashes)
    shared[first[shared]] = True
    return shared


def _runs(hashes: array | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) places in the order of their hashes, equal ones as they stand, and (N,) bool: where a new hash begins."""
    values = np.asarray(hashes, dtype=np.uint64)
    order = np.argsort(values, kind="stable")
    values = values[order]
    begins = np.ones(len(values), dtype=bool)
    begins[1:] = (values[1:] != values[:-1]) | (values[1:] == 0)
    return order, begins
