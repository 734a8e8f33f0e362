"""Visual prototypes with text keys: a folder that grows shard by shard, and the search in it.

    folder/meta.json           which models made it, sizes
    folder/shard-00000.npz     keys (n, C) float32 of length 1, prototypes (n, D) float32, words, items
    folder/index.faiss         HNSW over all keys (inner product), if FAISS was there when the folder was finished
    folder/keys.npy, prototypes.npy, words.json   all shards in one, read through a memory map

A shard is written whole or not at all and names the items it was made from, so that an interrupted build goes on where
it stopped, and never more than one shard is held in memory.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from talk2dino.errors import DataError, InputError, MissingExtraError
from talk2dino.io.atomic import atomic_path, remove_leftovers, write_atomically

#: HNSW links a key; FAISS's usual choice.
HNSW_LINKS = 32
#: Candidates that HNSW keeps while searching; FreeDA's published setting is 50000, which makes it nearly exact.
EF_SEARCH = 50_000
INDEX_KINDS = ("auto", "hnsw", "exact")
_AGAIN = "build the prototypes again, in another folder"


@dataclass(frozen=True)
class Prototype:
    """One entry: a word, the CLIP text embedding of it (C,), and the mean DINO feature under its mask (D,)."""

    word: str
    key: np.ndarray
    feature: np.ndarray


class PrototypeWriter:
    """Collects prototypes of numbered items into shards.

    Args:
        folder: where the shards go.
        meta: what made them; a folder that was made otherwise is refused.
        shard_size: prototypes a shard; what is held in memory.
    """

    def __init__(self, folder: str | Path, meta: dict[str, Any], *, shard_size: int = 512) -> None:
        self.folder = Path(folder)
        self.shard_size = shard_size
        known = self.folder / "meta.json"
        remove_leftovers(self.folder)
        if known.is_file():
            found = _read_json(known, dict)
            if found != meta:
                differing = sorted(key for key in {*found, *meta} if found.get(key) != meta.get(key))
                told = "; ".join(f"{key}: {found.get(key)!r} there, {meta.get(key)!r} now" for key in differing)
                raise DataError(f"{self.folder} holds prototypes made otherwise ({told}): choose another folder")
        elif _shards(self.folder):
            raise DataError(f"{self.folder} holds shards of prototypes without their meta.json: choose another folder")
        else:
            write_atomically(known, json.dumps(meta, indent=1, ensure_ascii=False))
        self.done: set[str] = set()
        for path in _shards(self.folder):
            self.done.update(_read_shard(path)["items"].tolist())
        self._rows: list[Prototype] = []
        self._items: list[str] = []

    def add(self, item: str, prototypes: Iterable[Prototype]) -> None:
        """All prototypes of one item (picture or caption); an item is never split over two shards."""
        rows = [row for row in prototypes if np.isfinite(row.feature).all()]
        self._rows += rows
        self._items.append(item)
        self.done.add(item)
        if len(self._rows) >= self.shard_size:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if not self._items:
            return
        content = io.BytesIO()
        np.savez(
            content,
            keys=np.array([row.key for row in self._rows], dtype=np.float32),
            prototypes=np.array([row.feature for row in self._rows], dtype=np.float32),
            words=np.array([row.word for row in self._rows], dtype=np.str_),
            items=np.array(self._items, dtype=np.str_),
        )
        number = len(_shards(self.folder))
        write_atomically(self.folder / f"shard-{number:05d}.npz", content.getvalue())
        self._rows, self._items = [], []

    def finish(self, index: str = "auto") -> int:
        """Write the last shard, join all of them and build the index; returns the number of prototypes."""
        self.flush()
        return join_shards(self.folder, index)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.npz"))


def _read_shard(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            return {name: content[name] for name in ("keys", "prototypes", "words", "items")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"prototype shard {path} is damaged ({error}); delete it and build again") from None


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); {_AGAIN}") from None
    if not isinstance(content, kind):
        raise DataError(f"{path} is damaged (it holds a {type(content).__name__}); {_AGAIN}")
    return content


def _map_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged ({error}); {_AGAIN}") from None
    if array.ndim != 2:
        raise DataError(f"{path} is damaged (its shape is {array.shape}); {_AGAIN}")
    return array


def join_shards(folder: Path, index: str = "auto") -> int:
    """Make keys.npy, prototypes.npy, words.json and (FAISS at hand) index.faiss out of the shards, one at a time."""
    check_index_kind(index)
    words: list[str] = []
    sizes = []
    for path in _shards(folder):
        shard = _read_shard(path)
        words += shard["words"].tolist()
        if len(shard["keys"]):
            sizes.append((shard["keys"].shape[1], shard["prototypes"].shape[1]))
    if not words:
        raise DataError(
            f"{folder} holds no prototypes: no picture had a mask of a named class, or no caption a word; after "
            "changing them, remove that folder to build anew"
        )
    for name, width in (("keys", sizes[0][0]), ("prototypes", sizes[0][1])):
        with atomic_path(folder / f"{name}.npy") as temporary:
            joined = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(words), width))
            start = 0
            for path in _shards(folder):
                rows = _read_shard(path)[name]
                joined[start : start + len(rows)] = rows
                start += len(rows)
            joined.flush()
    write_atomically(folder / "words.json", json.dumps(words, ensure_ascii=False))
    (folder / "index.faiss").unlink(missing_ok=True)
    if index != "exact" and (index == "hnsw" or has_faiss()):
        _build_hnsw(folder)
    return len(words)


def has_faiss() -> bool:
    return importlib.util.find_spec("faiss") is not None


def check_index_kind(index: str) -> None:
    if index not in INDEX_KINDS:
        raise InputError(f"unknown index {index!r}; accepted: {', '.join(INDEX_KINDS)}")
    if index == "hnsw" and not has_faiss():
        raise MissingExtraError.of("faiss-cpu", "freeda", "the HNSW index")


def _build_hnsw(folder: Path) -> None:
    import faiss

    keys = np.load(folder / "keys.npy", mmap_mode="r")
    index = faiss.IndexHNSWFlat(keys.shape[1], HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(keys), 4096):
        index.add(np.ascontiguousarray(keys[start : start + 4096]))
    with atomic_path(folder / "index.faiss") as temporary:
        faiss.write_index(index, str(temporary))


class PrototypeStore:
    """A finished folder, read through memory maps.

    Args:
        folder: what ``talk2dino freeda build`` made.
        index: "hnsw" (FAISS), "exact", or "auto": HNSW when the folder has one and FAISS is installed, else exact.
    """

    def __init__(self, folder: str | Path, *, index: str = "auto") -> None:
        self.folder = Path(folder)
        check_index_kind(index)
        missing = [
            n for n in ("meta.json", "keys.npy", "prototypes.npy", "words.json") if not (self.folder / n).is_file()
        ]
        if missing:
            unfinished = " (the build was interrupted: run it again)" if _shards(self.folder) else ""
            raise DataError(
                f"{self.folder} is not a prototype folder: {', '.join(missing)} missing{unfinished}; "
                "make one with: talk2dino freeda build"
            )
        self.meta: dict[str, Any] = _read_json(self.folder / "meta.json", dict)
        self.keys = _map_array(self.folder / "keys.npy")
        self.prototypes = _map_array(self.folder / "prototypes.npy")
        self.words: list[str] = _read_json(self.folder / "words.json", list)
        if not len(self.keys) == len(self.prototypes) == len(self.words):
            raise DataError(f"{self.folder} is damaged: its files differ in length; build it again")
        on_disk = self.folder / "index.faiss"
        if index == "hnsw" and not on_disk.is_file():
            raise DataError(f"{self.folder} has no HNSW index; build it with --index hnsw, or use --index exact")
        self.kind = "hnsw" if index == "hnsw" or (index == "auto" and on_disk.is_file() and has_faiss()) else "exact"
        self._index = self._read_index(on_disk) if self.kind == "hnsw" else None

    def __len__(self) -> int:
        return len(self.words)

    def fingerprint(self) -> str:
        """SHA-256 (first 16 digits) of what made the prototypes and of their words."""
        description = json.dumps([self.meta, self.words], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(description.encode()).hexdigest()[:16]

    def _read_index(self, path: Path) -> Any:
        import faiss

        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise DataError(f"{path} is damaged, or no index that this FAISS can read; build it again") from error
        if index.ntotal != len(self.words):
            raise DataError(f"{path} holds {index.ntotal} keys, the folder {len(self.words)}; build it again")
        return index

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest keys by inner product: (Q, C) to similarities and indices (Q, min(count, len)), best first."""
        if queries.ndim != 2 or queries.shape[1] != self.keys.shape[1]:
            raise InputError(f"queries must be (Q, {self.keys.shape[1]}); got {queries.shape}")
        count = min(count, len(self))
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if self._index is not None:
            self._index.hnsw.efSearch = max(EF_SEARCH, count)
            similarities, indices = self._index.search(queries, count)
            if (indices >= 0).all():
                return similarities, indices
        return self._exact(queries, count)

    def _exact(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        best = np.full((len(queries), 0), 0.0, dtype=np.float32)
        places = np.zeros((len(queries), 0), dtype=np.int64)
        for start, keys in self._blocks():
            similarities = queries @ keys.T
            both = np.concatenate([best, similarities], axis=1)
            where = np.concatenate([places, np.broadcast_to(start + np.arange(len(keys)), similarities.shape)], axis=1)
            order = np.argsort(-both, axis=1, kind="stable")[:, :count]
            best, places = np.take_along_axis(both, order, 1), np.take_along_axis(where, order, 1)
        return best, places

    def _blocks(self, size: int = 16384) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(self.keys), size):
            yield start, np.asarray(self.keys[start : start + size])

    def class_prototypes(self, queries: np.ndarray, count: int) -> np.ndarray:
        """The mean prototype of the ``count`` nearest keys of each query: (Q, D)."""
        _, indices = self.search(queries, count)
        return np.stack([np.asarray(self.prototypes[np.sort(row)]).mean(axis=0) for row in indices])
