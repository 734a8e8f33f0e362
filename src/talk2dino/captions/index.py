"""What the index of a source is made of: texts in one block of bytes, and keys by their 64-bit hashes."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator

import numpy as np


class TextList:
    """A list of texts that only grows: 8 bytes per text besides its characters, where a list of str takes 60 or more."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        self._content += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._content))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, place: int) -> str:
        return self._content[self._ends[place] : self._ends[place + 1]].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))


class TextGroups:
    """Texts by their owners, which are 64-bit numbers: 12 bytes per text besides the texts."""

    def __init__(self, texts: TextList, owners: array | np.ndarray, kept: np.ndarray) -> None:
        """Hold texts[n] for owners[n], for each n that the mask ``kept`` (N,) holds."""
        owners, places = np.asarray(owners, dtype=np.uint64)[kept], np.flatnonzero(kept)
        order = np.argsort(owners, kind="stable")
        self._texts, self._owners, self._places = texts, owners[order], places[order].astype(np.uint32)

    def __getitem__(self, owner: int) -> list[str]:
        """The texts of an owner, in their order."""
        left = np.searchsorted(self._owners, np.uint64(owner), "left")
        right = np.searchsorted(self._owners, np.uint64(owner), "right")
        return [self._texts[place] for place in self._places[left:right].tolist()]


def hash64(key: str) -> int:
    """A 64-bit hash of a text. In the functions below, 0 stands for a missing key, which equals no other key."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def first_places(hashes: array | np.ndarray) -> np.ndarray:
    """(N,) int64: for each hash, the place of the first equal one."""
    values = np.asarray(hashes, dtype=np.uint64)
    _, first, group = np.unique(values, return_index=True, return_inverse=True)
    return np.where(values == 0, np.arange(len(values)), first[group])


def is_repeated(hashes: array | np.ndarray) -> np.ndarray:
    """(N,) bool: whether an equal hash stands before this one."""
    return first_places(hashes) != np.arange(len(hashes))


def is_shared(hashes: array | np.ndarray) -> np.ndarray:
    """(N,) bool: whether a hash occurs more than once."""
    first, shared = first_places(hashes), is_repeated(hashes)
    shared[first[shared]] = True
    return shared
