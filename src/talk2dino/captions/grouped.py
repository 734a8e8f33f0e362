"""Tables with one row a caption: which rows are one picture's."""

from __future__ import annotations

import json
from array import array
from typing import Any

import numpy as np

from talk2dino.captions.compact import Texts
from talk2dino.captions.source import repeated


class GroupedRows:
    """Rows of a table, those of one picture together.

    A row is a picture's first one, or a further one with other captions of it (which has no number of its own), or the
    same once more (which keeps its number, to be skipped). Some 10 bytes a row, and the captions of the further rows.

    Args:
        pictures: a hash of each row's picture; 0 is equal to nothing.
        rows: a hash of each row's picture and captions; 0 alike.
    """

    def __init__(self, pictures: array, rows: array) -> None:
        hashes = np.asarray(pictures, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        begins = np.ones(len(hashes), dtype=bool)  # of each run of equal hashes
        begins[1:] = (hashes[order][1:] != hashes[order][:-1]) | (hashes[order][1:] == 0)
        self._first = np.empty(len(hashes), dtype=np.uint32)
        self._first[order] = order[begins][np.cumsum(begins) - 1]
        self._again = np.zeros(len(hashes), dtype=bool)
        self._again[list(repeated(rows))] = True
        self._further = (self._first != np.arange(len(hashes))) & ~self._again
        self._count = len(hashes) - int(self._further.sum())
        self._texts = Texts()
        places = np.flatnonzero(self._further)
        self._order = np.argsort(self._first[places], kind="stable").astype(np.uint32)
        self._owners = self._first[places][self._order]

    def __len__(self) -> int:
        """Rows that have a number."""
        return self._count

    @property
    def has_further(self) -> bool:
        return bool(len(self._owners))

    def add(self, row: int, captions: Any) -> None:
        """Keep the captions of a further row; call it for all rows in order."""
        if self._further[row]:
            self._texts.append(json.dumps(_as_list(captions), default=repr))

    def is_further(self, row: int) -> bool:
        return bool(self._further[row])

    def is_again(self, row: int) -> bool:
        return bool(self._again[row])

    def number_of(self, row: int) -> int:
        """The number of a first row, or of the first one after a further row."""
        return row - int(np.count_nonzero(self._further[:row]))

    def captions(self, row: int, own: Any) -> Any:
        """The captions of a first row and of all further rows of its picture."""
        left, right = np.searchsorted(self._owners, [row, row + 1])
        if left == right:
            return own
        more = (caption for place in self._order[left:right].tolist() for caption in json.loads(self._texts[place]))
        return [*_as_list(own), *more]


def _as_list(captions: Any) -> list[Any]:
    if captions is None:
        return []
    return list(captions) if isinstance(captions, (list, tuple)) else [captions]
