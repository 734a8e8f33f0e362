"""Text embeddings on disk: one small SQLite file per text model.

Keys are SHA-256 hashes, so the file contains no text. Each embedding carries a digest, and a damaged one is not used. If
the folder is not writable, the disk is full or the file is damaged, caching is disabled and the log has one line about it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

#: Embeddings kept per model (2 kB each at 512 dimensions). The oldest are removed first.
LARGEST = 100_000
_MANY = 500  # placeholders per query
_DIGEST = 8  # bytes
_COLUMNS = ["key", "embedding"]


class TextCache:
    """Embeddings of one text model on disk.

    Args:
        path: the file; created with the first embedding.
        dim: C, the width of an embedding. Rows of another width are ignored.
        largest: number of embeddings kept.
    """

    def __init__(self, path: Path, dim: int, largest: int = LARGEST) -> None:
        self.path, self.dim, self.largest = path, dim, largest
        self.usable = True

    def get(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """(C,) float32 embeddings of those texts that are in the file."""
        keys = {_key(text): text for text in texts}
        asked = list(keys)
        found: dict[str, Tensor] = {}

        def read(database: sqlite3.Connection) -> None:
            if not _has_table(database):
                return
            for start in range(0, len(asked), _MANY):
                some = asked[start : start + _MANY]
                query = f"SELECT key, embedding FROM texts WHERE key IN ({','.join('?' * len(some))})"
                for key, blob in database.execute(query, some):
                    row = _unseal(key, blob)
                    if row is not None and len(row) == self.dim:
                        found[keys[key]] = torch.from_numpy(row.astype(np.float32))

        if self.path.is_file():
            self._transaction(read)
        return found

    def put(self, embeddings: Mapping[str, Tensor]) -> None:
        """Store (C,) embeddings by text."""
        rows = [(_key(text), _seal(_key(text), row.float().numpy())) for text, row in embeddings.items()]
        newest = f"SELECT rowid FROM texts ORDER BY rowid DESC LIMIT {int(self.largest)}"

        def write(database: sqlite3.Connection) -> None:
            database.execute("BEGIN IMMEDIATE")  # another process may create the table at the same time
            if not _has_table(database):
                database.execute("DROP TABLE IF EXISTS texts")
                database.execute("CREATE TABLE texts (key BLOB PRIMARY KEY, embedding BLOB)")
            database.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?)", rows)
            if database.execute("SELECT count(*) FROM texts").fetchone()[0] > self.largest:
                database.execute(f"DELETE FROM texts WHERE rowid NOT IN ({newest})")

        if rows:
            self._transaction(write)

    def _transaction(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do the work completely or not at all. An error disables the cache."""
        if not self.usable:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path, timeout=5)) as database, database:
                work(database)
        except (sqlite3.Error, OSError) as error:
            self.usable = False
            log.info("caching text embeddings in %s is disabled: %s", self.path, error)
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                with contextlib.suppress(OSError):
                    self.path.unlink()  # damaged; the next process creates a new file


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _has_table(database: sqlite3.Connection) -> bool:
    """Whether the database has the table that this module writes."""
    return [row[1] for row in database.execute("PRAGMA table_info(texts)")] == _COLUMNS


def _seal(key: bytes, row: np.ndarray) -> bytes:
    """An embedding as bytes, followed by a digest of the key and these bytes."""
    numbers = row.astype("<f4").tobytes()
    return numbers + hashlib.sha256(key + numbers).digest()[:_DIGEST]


def _unseal(key: bytes, blob: bytes) -> np.ndarray | None:
    """The embedding, or None if it or its key is not what was written."""
    if not isinstance(blob, bytes) or len(blob) % 4 or len(blob) <= _DIGEST:
        return None
    numbers = blob[:-_DIGEST]
    if hashlib.sha256(key + numbers).digest()[:_DIGEST] != blob[-_DIGEST:]:
        return None
    return np.frombuffer(numbers, "<f4")
