"""Text embeddings that outlive the process: one small SQLite file a text model.

A prompt is kept under the SHA-256 of its words, so the file holds no words. Nothing here may stop the work: a folder that
cannot be written, a full disk or a damaged file means no cache, told once in the log.
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

#: Embeddings kept a model (2 kB each at 512 dimensions); beyond it the oldest go.
LARGEST = 100_000
_MANY = 500  # placeholders of one query


class TextCache:
    """Embeddings of one text model on disk.

    Args:
        path: of the file; made with the first embedding.
        dim: C, numbers of an embedding; rows of another length are passed over.
        largest: embeddings kept.
    """

    def __init__(self, path: Path, dim: int, largest: int = LARGEST) -> None:
        self.path, self.dim, self.largest = path, dim, largest
        self.usable = True

    def get(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """(C,) float32 for those of the texts that are known."""
        keys = {_key(text): text for text in texts}
        asked = list(keys)
        found: dict[str, Tensor] = {}

        def read(database: sqlite3.Connection) -> None:
            for start in range(0, len(asked), _MANY):
                some = asked[start : start + _MANY]
                query = f"SELECT key, embedding FROM texts WHERE key IN ({','.join('?' * len(some))})"
                for key, blob in database.execute(query, some):
                    if len(blob) == 4 * self.dim:
                        found[keys[key]] = torch.from_numpy(np.frombuffer(blob, "<f4").astype(np.float32))

        if self.path.is_file():
            self._transaction(read)
        return found

    def put(self, embeddings: Mapping[str, Tensor]) -> None:
        """Keep (C,) embeddings by their texts."""
        rows = [(_key(text), row.float().numpy().astype("<f4").tobytes()) for text, row in embeddings.items()]
        newest = f"SELECT rowid FROM texts ORDER BY rowid DESC LIMIT {int(self.largest)}"

        def write(database: sqlite3.Connection) -> None:
            database.execute("CREATE TABLE IF NOT EXISTS texts (key BLOB PRIMARY KEY, embedding BLOB)")
            database.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?)", rows)
            if database.execute("SELECT count(*) FROM texts").fetchone()[0] > self.largest:
                database.execute(f"DELETE FROM texts WHERE rowid NOT IN ({newest})")

        if rows:
            self._transaction(write)

    def _transaction(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do the work, whole or not at all; after an error the cache is not used any more."""
        if not self.usable:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path, timeout=5)) as database, database:
                work(database)
        except (sqlite3.Error, OSError) as error:
            self.usable = False
            log.info("text embeddings are not kept in %s: %s", self.path, error)
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                with contextlib.suppress(OSError):
                    self.path.unlink()  # damaged; the next process makes a new one


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
