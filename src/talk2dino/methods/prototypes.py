"""Visual prototypes with text keys: a folder that is built shard by shard, and the search in it.

    folder/meta.json           what made the prototypes
    folder/shard-00000.npz     keys (n, C) float32 of length 1, prototypes (n, D) float32, words, items
    folder/keys.npy, prototypes.npy, words.json   all shards joined, read through a memory map

The key is an embedding of the word, so all prototypes of a word share one key. The search therefore ranks distinct keys:
the prototypes of the nearest key are taken, then those of the next one, until there are enough. If the last key has more
prototypes than are still needed, their mean counts for the missing ones. The result does not depend on the order in which
prototypes were added.

Searching all keys instead, as an approximate index does by default, goes wrong: the links of an HNSW graph all lead to equal
keys, so that it misses whole words, and an exact search picks equal keys by their order.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from talk2dino.errors import DataError, InputError, MissingExtraError
from talk2dino.io.atomic import atomic_path, remove_leftovers, write_atomically
from talk2dino.io.settings import check_same_settings

SEARCHES = ("exact", "hnsw")
#: HNSW: links per key (FAISS's usual choice), and candidates kept during a search (FreeDA's, models/freeda/freeda.py).
HNSW_LINKS, EF_SEARCH = 32, 50_000
_AGAIN = "delete the folder and build the prototypes again (talk2dino freeda build)"

Content = TypeVar("Content", dict[str, Any], list[str])


@dataclass(frozen=True)
class Prototype:
    """A word, its CLIP text embedding ``key`` (C,), and the mean DINO ``feature`` (D,) under one of its masks."""

    word: str
    key: np.ndarray
    feature: np.ndarray


class PrototypeWriter:
    """Writes the prototypes of named items (images, scenes or captions) in shards, each whole or not at all.

    A shard lists its items, so an interrupted build can be resumed. At most one shard is in memory.

    Args:
        folder: where the shards go.
        meta: the settings that decide the prototypes.
        shard_size: prototypes per shard.

    Attributes:
        done: names of the items that the shards hold.

    Raises:
        InputError: the folder holds prototypes that were made with other settings.
        DataError: a shard or meta.json is damaged or missing.
    """

    def __init__(self, folder: str | Path, meta: Mapping[str, Any], *, shard_size: int = 512) -> None:
        self.folder, self.shard_size = Path(folder), shard_size
        known = self.folder / "meta.json"
        remove_leftovers(self.folder)
        if known.is_file():
            check_same_settings(_read_json(known, dict), meta, self.folder)
        elif _shards(self.folder):
            raise DataError(f"{self.folder} holds prototypes, but its meta.json is missing: choose another folder")
        else:
            write_atomically(known, json.dumps(meta, indent=1, ensure_ascii=False))
        self.done = {str(item) for path in _shards(self.folder) for item in _read_shard(path)["items"]}
        self._rows: list[Prototype] = []
        self._items: list[str] = []

    def add(self, item: str, prototypes: Iterable[Prototype]) -> None:
        """Add all prototypes of one item; those with infinite or undefined values are left out."""
        self._rows += [row for row in prototypes if np.isfinite(row.feature).all()]
        self._items.append(item)
        self.done.add(item)
        if len(self._rows) >= self.shard_size:
            self.flush()

    def flush(self) -> None:
        """Write the items that are still in memory."""
        if not self._items:
            return
        with atomic_path(self.folder / f"shard-{len(_shards(self.folder)):05d}.npz") as temporary:
            np.savez(
                temporary,
                keys=np.array([row.key for row in self._rows], dtype=np.float32),
                prototypes=np.array([row.feature for row in self._rows], dtype=np.float32),
                words=np.array([row.word for row in self._rows], dtype=np.str_),
                items=np.array(self._items, dtype=np.str_),
            )
        self._rows, self._items = [], []

    def finish(self) -> int:
        """Write the last shard and join all shards; returns the number of prototypes.

        Raises:
            DataError: there are no prototypes.
        """
        self.flush()
        return _join_shards(self.folder)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.npz"))


def _read_shard(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            return {name: content[name] for name in ("keys", "prototypes", "words", "items")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}): delete this file and run the build again") from None


def _read_json(path: Path, kind: type[Content]) -> Content:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}): {_AGAIN}") from None
    if not isinstance(content, kind):
        raise DataError(f"{path} is damaged (expected a {kind.__name__}, got a {type(content).__name__}): {_AGAIN}")
    return content


def _map_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim != 2:
            raise ValueError(f"its shape is {array.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}): {_AGAIN}") from None
    return array


def _join_shards(folder: Path) -> int:
    """Write keys.npy, prototypes.npy and words.json, with one shard in memory at a time."""
    words: list[str] = []
    widths = {"keys": 0, "prototypes": 0}
    for path in _shards(folder):
        shard = _read_shard(path)
        words += shard["words"].tolist()
        if len(shard["words"]):
            widths = {name: shard[name].shape[1] for name in widths}
    if not words:
        raise DataError(
            f"{folder} holds no prototypes: no image had a mask of a named class, or no caption had a word to look for. "
            "Change the source, and delete the folder to start again"
        )
    # A resumed run may embed a word with other rounding: the first key of a word is the key of all its prototypes.
    first: dict[str, np.ndarray] = {}
    for name, width in widths.items():
        with atomic_path(folder / f"{name}.npy") as temporary:
            joined = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(words), width))
            start = 0
            for path in _shards(folder):
                shard = _read_shard(path)
                for place, (word, row) in enumerate(zip(shard["words"].tolist(), shard[name], strict=True), start):
                    joined[place] = first.setdefault(word, row) if name == "keys" else row
                start += len(shard["words"])
            joined.flush()
    write_atomically(folder / "words.json", json.dumps(words, ensure_ascii=False))
    return len(words)


def distinct_rows(rows: np.ndarray, *, block: int = 16384) -> tuple[np.ndarray, np.ndarray]:
    """(N, C) rows, such as a memory map, to the (U, C) distinct ones by first appearance, and (N,) which of them each is."""
    found: dict[bytes, int] = {}
    which = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), block):
        part = np.ascontiguousarray(rows[start : start + block])
        which[start : start + len(part)] = [found.setdefault(row.tobytes(), len(found)) for row in part]
    return np.frombuffer(b"".join(found), dtype=rows.dtype).reshape(len(found), rows.shape[1]), which


class PrototypeStore:
    """A finished folder of prototypes.

    Args:
        folder: what ``talk2dino freeda build`` wrote, now or in version 0.1.0.
        index: "exact" compares a query with every distinct key; "hnsw" searches them approximately with FAISS, which pays
            off from some hundred thousand words on.

    Attributes:
        words: the word of each of the N prototypes. keys: (U, C) distinct keys. prototypes: (N, D).

    Raises:
        DataError: not a finished folder of prototypes, or a damaged one.
        MissingExtraError: "hnsw" without FAISS.
    """

    def __init__(self, folder: str | Path, *, index: str = "exact") -> None:
        if index not in SEARCHES:
            raise InputError(f"unknown index {index!r}; accepted: {', '.join(SEARCHES)}")
        self.folder, self.index = Path(folder), index
        files = ("meta.json", "keys.npy", "prototypes.npy", "words.json")
        if missing := [name for name in files if not (self.folder / name).is_file()]:
            again, make = "run the interrupted build again", "make one with: talk2dino freeda build"
            advice = again if _shards(self.folder) else make
            raise DataError(f"{self.folder} is not a folder of prototypes ({', '.join(missing)} missing): {advice}")
        self.meta = _read_json(self.folder / "meta.json", dict)
        self.words = _read_json(self.folder / "words.json", list)
        self.prototypes = _map_array(self.folder / "prototypes.npy")
        keys = _map_array(self.folder / "keys.npy")
        if not len(keys) == len(self.prototypes) == len(self.words) > 0:
            raise DataError(f"{self.folder} is damaged (its files are empty or differ in length): {_AGAIN}")
        self.keys, which = distinct_rows(keys)
        self._sizes = np.bincount(which)
        self._members = np.split(np.argsort(which, kind="stable"), np.cumsum(self._sizes)[:-1])
        self._means: dict[int, np.ndarray] = {}
        self._hnsw = _hnsw_index(self.keys) if index == "hnsw" else None

    def __len__(self) -> int:
        return len(self.words)

    def fingerprint(self) -> str:
        """SHA-256 (first 16 digits) of the settings that made the prototypes and of their words."""
        description = json.dumps([self.meta, self.words], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(description.encode()).hexdigest()[:16]

    def search(self, queries: np.ndarray, count: int) -> list[list[tuple[int, int]]]:
        """Find the keys with the largest inner products, as many as have ``count`` prototypes.

        Args:
            queries: (Q, C).

        Returns:
            For each query, (key, number of its prototypes that count), best first. The numbers add up to ``count``, or to
            all prototypes.
        """
        if queries.ndim != 2 or queries.shape[1] != self.keys.shape[1]:
            raise InputError(f"queries must be (Q, {self.keys.shape[1]}); got {queries.shape}")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if self._hnsw is None:
            order = np.argsort(-(queries @ self.keys.T), axis=1, kind="stable")
        else:
            order = self._hnsw.search(queries, min(count, len(self.keys)))[1]  # -1 where it found fewer
        found = []
        for nearest in order:
            nearest = nearest[nearest >= 0]
            sizes = self._sizes[nearest]
            taken = np.clip(count + sizes - np.cumsum(sizes), 0, sizes)
            found.append(
                [(key, number) for key, number in zip(nearest.tolist(), taken.tolist(), strict=True) if number]
            )
        return found

    def class_prototypes(self, queries: np.ndarray, count: int) -> np.ndarray:
        """(Q, D): the mean of the ``count`` nearest prototypes of each query."""
        means = []
        for taken in self.search(queries, count):
            keys, numbers = zip(*taken, strict=True)
            means.append(np.average([self._mean(key) for key in keys], axis=0, weights=numbers))
        return np.stack(means).astype(np.float32)

    def _mean(self, key: int) -> np.ndarray:
        """(D,) mean of all prototypes of a key."""
        if key not in self._means:
            self._means[key] = np.asarray(self.prototypes[self._members[key]]).mean(axis=0, dtype=np.float64)
        return self._means[key]


def _hnsw_index(keys: np.ndarray) -> Any:
    if importlib.util.find_spec("faiss") is None:
        raise MissingExtraError.of("faiss-cpu", "freeda", "index='hnsw'")
    import faiss

    index = faiss.IndexHNSWFlat(keys.shape[1], HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = EF_SEARCH
    index.add(np.ascontiguousarray(keys, dtype=np.float32))
    return index
