"""Find equal keys among millions by their 64-bit hashes: 8 bytes per key."""

from __future__ import annotations

import hashlib
from array import array

import numpy as np


def hash64(key: str) -> int:
    """A 64-bit hash of a text, never 0: in the functions below, 0 stands for a missing key and equals nothing."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


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
